/* Receiving: the next message, where it is like the one before in all but its content. */

#include "native.h"

typedef struct {
    PyObject_HEAD
    Words words;
    unsigned long long position, released, epoch;
    Py_ssize_t position_at, released_at, wanted_at, handed_at, histogram_at;
    Py_ssize_t max_held;
    PyObject *take; /* gives the next sample, or None */
    PyObject *held; /* list of (chunk, token) */
    PyObject *bell;
    int bell_fd;
    Py_ssize_t bell_asleep;
    PyObject *raw; /* of the message taken last, unpacked; out of date where `is_newer` */
    WireHeader header;
    char is_newer;
} Receiver;

static PyObject *name_admit, *name_copy, *name_settle;

static int is_set_up(const Receiver *self) {
    const Words *words = &self->words;
    if (words->view && self->take && self->held && self->bell &&
        is_word(words, self->position_at) && is_word(words, self->released_at) &&
        is_word(words, self->wanted_at) && is_word(words, self->handed_at) &&
        is_word(words, self->histogram_at) &&
        words->count - self->histogram_at >= HISTOGRAM_BUCKETS && is_word(words, self->bell_asleep))
        return 1;
    PyErr_SetString(PyExc_AttributeError, "the reader is not set up");
    return 0;
}

/* Gives back what nobody refers to any more; -1 with an error set. */
static int settle(Receiver *self) {
    PyObject *held = self->held;
    const Py_ssize_t count = PyList_GET_SIZE(held);
    for (Py_ssize_t index = 0; index < count; index++) {
        PyObject *pair = PyList_GET_ITEM(held, index);
        const int is_pair = PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2;
        PyObject *chunk = is_pair ? PyTuple_GET_ITEM(pair, 0) : NULL;
        const int is_chunk = chunk && PyObject_TypeCheck(chunk, &ChunkType);
        PyObject *array = is_chunk ? ((Chunk *)chunk)->array : NULL;
        if (!array || (array != Py_None && Py_REFCNT(array) > 1)) {
            PyObject *done = PyObject_CallMethodNoArgs((PyObject *)self, name_settle);
            Py_XDECREF(done);
            return done ? 0 : -1;
        }
    }
    if (PyList_SetSlice(held, 0, count, NULL))
        return -1;
    self->released += count;
    store(&self->words, self->released_at, self->released);
    return 0;
}

/* Whether a sample is like the one before in its chunk; its header is in `header` then. */
static int is_common(Receiver *self, PyObject *sample, WireHeader *header) {
    if (!PyTuple_CheckExact(sample) || PyTuple_GET_SIZE(sample) != 3 ||
        !PyObject_TypeCheck(PyTuple_GET_ITEM(sample, 0), &ChunkType) ||
        !PyLong_CheckExact(PyTuple_GET_ITEM(sample, 1)) || !PyList_CheckExact(self->held))
        return 0;
    const Chunk *chunk = (Chunk *)PyTuple_GET_ITEM(sample, 0);
    PyObject *layout = chunk->layout;
    if (!layout || Py_TYPE(layout) != bound.layout || !chunk->array || chunk->array == Py_None ||
        !chunk->header_view.obj)
        return 0;
    memcpy(header, chunk->header_view.buf, sizeof *header); /* its writer may change it any time */
    const char *block = block_of(layout);
    if (!block || memcmp(block, header->layout, sizeof header->layout) ||
        slot_get(layout, bound.layout_is_array) != Py_True)
        return 0;
    const unsigned long long room = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(sample, 1));
    const unsigned long long payload =
        PyLong_AsUnsignedLongLong(slot_get(layout, bound.layout_payload_bytes));
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    const uint64_t epoch = load(&self->words, EPOCH_WORD);
    return !header->zero && !header->metadata_bytes && payload <= room &&
           self->position != UINT64_MAX && header->sequence == self->position + 1 &&
           !header->context_zero && !header->context_zeros && header->epoch == epoch &&
           self->epoch == epoch;
}

/* The message of a sample; see `Intake._admit`. */
static PyObject *admit(Receiver *self, PyObject *sample) {
    WireHeader header;
    if (!is_common(self, sample, &header))
        return PyObject_CallMethodOneArg((PyObject *)self, name_admit, sample);
    self->header = header;
    self->is_newer = 1;
    self->position = header.sequence;
    store(&self->words, self->position_at, header.sequence);
    if (load(&self->words, self->wanted_at) && load(&self->words, self->bell_asleep))
        ring(self->bell_fd);
    Chunk *chunk = (Chunk *)PyTuple_GET_ITEM(sample, 0);
    PyObject *pair = PyTuple_Pack(2, chunk, PyTuple_GET_ITEM(sample, 2));
    if (!pair)
        return NULL;
    PyObject *layout = Py_NewRef(chunk->layout), *array = Py_NewRef(chunk->array);
    PyObject *message =
        new_array_message(layout, array, header.timestamp_ns, header.correlation_id);
    Py_DECREF(layout);
    Py_DECREF(array);
    /* Appended as Python would: whoever closed it meanwhile has put another list there. */
    PyObject *held = Py_NewRef(self->held);
    int failed = !message;
    if (message && PyList_CheckExact(held))
        failed = PyList_Append(held, pair);
    Py_DECREF(pair);
    Py_DECREF(held);
    if (failed) {
        Py_XDECREF(message);
        return NULL;
    }
    const uint64_t now = monotonic_ns(), sent = header.sent_ns;
    const uint64_t took = now > sent ? now - sent : sent - now; /* the bits of -d are those of d */
    const int bits = took ? 64 - __builtin_clzll(took) : 0;
    const Py_ssize_t bucket = bits < HISTOGRAM_BUCKETS ? bits : HISTOGRAM_BUCKETS - 1;
    const Py_ssize_t counted = self->histogram_at + bucket;
    store(&self->words, counted, load(&self->words, counted) + 1);
    if (self->max_held < 0 || PyList_GET_SIZE(self->held) > self->max_held) {
        PyObject *done = PyObject_CallMethodOneArg((PyObject *)self, name_copy, message);
        if (!done)
            Py_CLEAR(message);
        Py_XDECREF(done);
    }
    return message;
}

static PyObject *receiver_next(Receiver *self, PyObject *Py_UNUSED(none)) {
    if (!is_set_up(self))
        return NULL;
    if (PyList_GET_SIZE(self->held) && settle(self))
        return NULL;
    while (1) {
        PyObject *take = Py_NewRef(self->take);
        PyObject *sample = PyObject_CallNoArgs(take);
        Py_DECREF(take);
        if (!sample || sample == Py_None)
            return sample;
        PyObject *message = admit(self, sample);
        Py_DECREF(sample); /* given back before the next is taken */
        if (message != Py_None)
            return message;
        Py_DECREF(message);
    }
}

static PyObject *receiver_look(Receiver *self, PyObject *none) {
    if (!is_set_up(self))
        return NULL;
    if (load(&self->words, self->handed_at) == self->position)
        Py_RETURN_NONE;
    return receiver_next(self, none);
}

static PyObject *get_words(Receiver *self, void *Py_UNUSED(closure)) {
    return Py_NewRef(self->words.view ? self->words.view : Py_None);
}

static int set_words(Receiver *self, PyObject *value, void *Py_UNUSED(closure)) {
    return words_set(&self->words, value);
}

static PyObject *get_raw(Receiver *self, void *Py_UNUSED(closure)) {
    if (self->is_newer) {
        PyObject *bytes = PyBytes_FromStringAndSize((char *)&self->header, sizeof self->header);
        PyObject *raw = bytes ? PyObject_CallOneArg(bound.unpack_header, bytes) : NULL;
        Py_XDECREF(bytes);
        if (!raw)
            return NULL;
        Py_XSETREF(self->raw, raw);
        self->is_newer = 0;
    }
    return Py_NewRef(self->raw ? self->raw : Py_None);
}

static int set_raw(Receiver *self, PyObject *value, void *Py_UNUSED(closure)) {
    Py_XSETREF(self->raw, Py_XNewRef(value));
    self->is_newer = 0;
    return 0;
}

static PyObject *get_bell(Receiver *self, void *Py_UNUSED(closure)) {
    return Py_NewRef(self->bell ? self->bell : Py_None);
}

static int set_bell(Receiver *self, PyObject *value, void *Py_UNUSED(closure)) {
    int fd;
    Py_ssize_t asleep;
    if (!value || !PyTuple_Check(value) || !PyArg_ParseTuple(value, "in", &fd, &asleep)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "a bell is a tuple of two numbers");
        return -1;
    }
    self->bell_fd = fd;
    self->bell_asleep = asleep;
    Py_XSETREF(self->bell, Py_NewRef(value));
    return 0;
}

static PyObject *get_held(Receiver *self, void *Py_UNUSED(closure)) {
    return Py_NewRef(self->held ? self->held : Py_None);
}

static int set_held(Receiver *self, PyObject *value, void *Py_UNUSED(closure)) {
    if (!value || !PyList_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "what is held is a list");
        return -1;
    }
    Py_XSETREF(self->held, Py_NewRef(value));
    return 0;
}

static int receiver_traverse(Receiver *self, visitproc visit, void *arg) {
    Py_VISIT(self->words.view);
    Py_VISIT(self->take);
    Py_VISIT(self->held);
    Py_VISIT(self->bell);
    Py_VISIT(self->raw);
    return 0;
}

static int receiver_clear(Receiver *self) {
    words_set(&self->words, NULL);
    Py_CLEAR(self->take);
    Py_CLEAR(self->held);
    Py_CLEAR(self->bell);
    Py_CLEAR(self->raw);
    return 0;
}

static void receiver_dealloc(Receiver *self) {
    PyObject_GC_UnTrack(self);
    receiver_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef receiver_members[] = {
    {"_position", T_ULONGLONG, offsetof(Receiver, position), 0, NULL},
    {"_released", T_ULONGLONG, offsetof(Receiver, released), 0, NULL},
    {"epoch", T_ULONGLONG, offsetof(Receiver, epoch), 0, NULL},
    {"_position_at", T_PYSSIZET, offsetof(Receiver, position_at), 0, NULL},
    {"_released_at", T_PYSSIZET, offsetof(Receiver, released_at), 0, NULL},
    {"_wanted_at", T_PYSSIZET, offsetof(Receiver, wanted_at), 0, NULL},
    {"_handed_at", T_PYSSIZET, offsetof(Receiver, handed_at), 0, NULL},
    {"_histogram_at", T_PYSSIZET, offsetof(Receiver, histogram_at), 0, NULL},
    {"_max_held", T_PYSSIZET, offsetof(Receiver, max_held), 0, NULL},
    {"_take", T_OBJECT_EX, offsetof(Receiver, take), 0, NULL},
    {NULL},
};

static PyGetSetDef receiver_getset[] = {
    {"_words", (getter)get_words, (setter)set_words, NULL, NULL},
    {"_raw", (getter)get_raw, (setter)set_raw, NULL, NULL},
    {"_bell", (getter)get_bell, (setter)set_bell, NULL, NULL},
    {"_held", (getter)get_held, (setter)set_held, NULL, NULL},
    {NULL},
};

static PyMethodDef receiver_methods[] = {
    {"_next", (PyCFunction)receiver_next, METH_NOARGS, NULL},
    {"_look", (PyCFunction)receiver_look, METH_NOARGS, NULL},
    {NULL},
};

PyTypeObject ReceiverType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name =
        "remotemedia.core.multiprocess.native._native.Receiver",
    .tp_basicsize = sizeof(Receiver),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)receiver_dealloc,
    .tp_traverse = (traverseproc)receiver_traverse,
    .tp_clear = (inquiry)receiver_clear,
    .tp_members = receiver_members,
    .tp_getset = receiver_getset,
    .tp_methods = receiver_methods,
};

int init_receiver(PyObject *module) {
    return !(name_admit = PyUnicode_InternFromString("_admit")) ||
                   !(name_copy = PyUnicode_InternFromString("_copy")) ||
                   !(name_settle = PyUnicode_InternFromString("_settle")) ||
                   PyModule_AddType(module, &ReceiverType)
               ? -1
               : 0;
}
