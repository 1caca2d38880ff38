/* Sending what was filled in place, while there is credit and nobody else refers to it. */

#include "native.h"

typedef struct {
    int fd;
    Py_ssize_t asleep;
} Bell;

typedef struct {
    Py_ssize_t slot;
    uint64_t capacity;
} Reader;

typedef struct {
    PyObject_HEAD
    Words words;
    unsigned long long sent, bytes;
    long long limit; /* up to which credit is known; -1 in the midst of a message */
    Py_ssize_t sent_at, handed_at, bytes_at;
    PyObject *epoch;  /* a number, or None for the present one */
    PyObject *finish; /* makes what can be sent of a token; None where the transport does it all */
    PyObject *bells;
    Bell *bell;
    PyObject *readers; /* whose positions are the credit; None where it takes more than a look */
    Reader *reader;
} Emitter;

static PyObject *name_try_loan_any, *name_send, *name_not_handed;

/* Whether one more message may be sent, by what is known or by a look; see `Credit`. */
static int has_credit(Emitter *self) {
    if (self->limit < 0 || self->sent > INT64_MAX)
        return 0;
    if ((long long)self->sent < self->limit)
        return 1;
    /* 0 is the pass taken away: somebody has changed something, or is closed. */
    if (!self->limit || !self->words.view || !self->readers || self->readers == Py_None)
        return 0;
    uint64_t limit = INT64_MAX;
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(self->readers); index++) {
        const Reader *reader = &self->reader[index];
        if (load(&self->words, reader->slot + STATE_WORD) != STATE_OPEN)
            return 0;
        const uint64_t base = load(&self->words, reader->slot + BASE_WORD);
        const uint64_t position = load(&self->words, reader->slot + POSITION_WORD);
        const uint64_t taken = position > base ? position : base;
        if (taken > INT64_MAX - reader->capacity)
            return 0;
        if (taken + reader->capacity < limit)
            limit = taken + reader->capacity;
    }
    if (self->sent >= limit)
        return 0;
    self->limit = (long long)limit;
    return 1;
}

/* Whether nobody else can reach the memory of a chunk's array, or hears of it when the view that
   was given of it goes. A message that was detached has another array than that view. */
static int is_alone(PyObject *given, PyObject *array) {
    return array && Py_TYPE(given) == bound.array_type && ((Array *)given)->base == array &&
           Py_REFCNT(given) == 1 && Py_REFCNT(array) == 2 &&
           !*(PyObject **)((char *)given + bound.array_type->tp_weaklistoffset);
}

/* Whether a loan can be sent as it is, and the fields of its header. */
static int is_common(Emitter *self, Loan *loan, WireHeader *header, uint64_t *nbytes) {
    if (!self->words.view || !is_word(&self->words, self->sent_at) ||
        !is_word(&self->words, self->handed_at) || !is_word(&self->words, self->bytes_at) ||
        !self->finish || self->finish == Py_None || !self->bells || !self->epoch ||
        !loan->token || loan->token == Py_None || !loan->message || !loan->layout ||
        Py_TYPE(loan->layout) != bound.layout || !block_of(loan->layout) || !loan->chunk ||
        !PyObject_TypeCheck(loan->chunk, &ChunkType))
        return 0;
    Chunk *chunk = (Chunk *)loan->chunk;
    PyObject *message = loan->message, *given = slot_get(message, bound.array);
    PyObject *correlation = slot_get(message, bound.correlation_id);
    PyObject *timestamp = slot_get(message, bound.timestamp_ns);
    if (!given || !is_alone(given, chunk->array) || chunk->header_view.readonly ||
        !chunk->header_view.obj || slot_get(message, bound.metadata) != bound.no_metadata ||
        !correlation || !timestamp || !PyLong_CheckExact(correlation) ||
        !PyLong_CheckExact(timestamp))
        return 0;
    header->correlation_id = PyLong_AsUnsignedLongLong(correlation);
    header->timestamp_ns = PyLong_AsLongLong(timestamp);
    *nbytes = PyLong_AsUnsignedLongLong(slot_get(loan->layout, bound.layout_payload_bytes));
    unsigned long long epoch = load(&self->words, EPOCH_WORD);
    if (self->epoch != Py_None)
        epoch = PyLong_Check(self->epoch) ? PyLong_AsUnsignedLongLong(self->epoch) : UINT64_MAX;
    header->epoch = (uint32_t)epoch;
    if (PyErr_Occurred()) { /* whoever looks closer says what is wrong */
        PyErr_Clear();
        return 0;
    }
    return epoch <= UINT32_MAX;
}

static void ring_sleepers(Emitter *self) {
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(self->bells); index++)
        if (load(&self->words, self->bell[index].asleep))
            ring(self->bell[index].fd);
}

/* No code of Python runs from the first count to the last: no signal handler, no other thread. */
static int emit(Emitter *self, Loan *loan, WireHeader *header, uint64_t nbytes) {
    Chunk *chunk = (Chunk *)loan->chunk;
    const uint64_t sequence = self->sent + 1;
    memcpy(header->layout, block_of(loan->layout), sizeof header->layout);
    header->zero = header->metadata_bytes = header->context_zero = 0;
    header->context_zeros = 0;
    header->sequence = sequence;
    header->sent_ns = monotonic_ns();
    memcpy(chunk->header_view.buf, header, sizeof *header);
    PyObject *token = loan->token;
    loan->token = Py_NewRef(Py_None);
    /* Counted before it is handed over: whatever a reader has was counted, even if we die here. */
    store(&self->words, self->sent_at, sequence);
    PyObject *sample = PyObject_CallOneArg(self->finish, token);
    PyObject *readers = sample ? PyObject_CallMethodNoArgs(sample, name_send) : NULL;
    if (readers) {
        self->sent = sequence;
        store(&self->words, self->handed_at, sequence);
        self->bytes += nbytes;
        store(&self->words, self->bytes_at, self->bytes);
        ring_sleepers(self);
    }
    const int failed = !readers;
    Py_XDECREF(readers);
    Py_XDECREF(sample);
    Py_DECREF(token);
    return failed ? -1 : 0;
}

PyObject *try_loan(PyObject *sender, PyObject *argument) {
    Emitter *self = (Emitter *)sender;
    WireHeader header;
    uint64_t nbytes;
    Loan *loan = PyObject_TypeCheck(argument, &LoanType) ? (Loan *)argument : NULL;
    if (!loan || !has_credit(self) || !is_common(self, loan, &header, &nbytes))
        return PyObject_CallMethodOneArg((PyObject *)self, name_try_loan_any, argument);
    PyObject *message = loan->message;
    slot_set(message, bound.array, Py_NewRef(Py_None)); /* nobody hears of it: no code runs */
    slot_set(message, bound.gone, Py_NewRef(bound.sent));
    if (emit(self, loan, &header, nbytes)) /* what becomes of its number depends on the error */
        return hand_over_error((PyObject *)self, name_not_handed, NULL);
    Py_RETURN_TRUE;
}

static PyObject *get_words(Emitter *self, void *Py_UNUSED(closure)) {
    return Py_NewRef(self->words.view ? self->words.view : Py_None);
}

static int set_words(Emitter *self, PyObject *value, void *Py_UNUSED(closure)) {
    return words_set(&self->words, value);
}

static PyObject *get_bells(Emitter *self, void *Py_UNUSED(closure)) {
    return Py_NewRef(self->bells ? self->bells : Py_None);
}

static int set_bells(Emitter *self, PyObject *value, void *Py_UNUSED(closure)) {
    if (!value || !PyTuple_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "bells are a tuple");
        return -1;
    }
    const Py_ssize_t count = PyTuple_GET_SIZE(value);
    Bell *bell = PyMem_Calloc(count + 1, sizeof *bell);
    if (!bell) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t index = 0; index < count; index++) {
        PyObject *one = PyTuple_GET_ITEM(value, index);
        if (!PyTuple_Check(one) ||
            !PyArg_ParseTuple(one, "in", &bell[index].fd, &bell[index].asleep) ||
            !is_word(&self->words, bell[index].asleep)) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError,
                                "a bell is a descriptor and a word of the ledger");
            PyMem_Free(bell);
            return -1;
        }
    }
    PyMem_Free(self->bell);
    self->bell = bell;
    Py_XSETREF(self->bells, Py_NewRef(value));
    return 0;
}

static PyObject *get_readers(Emitter *self, void *Py_UNUSED(closure)) {
    return Py_NewRef(self->readers ? self->readers : Py_None);
}

static int set_readers(Emitter *self, PyObject *value, void *Py_UNUSED(closure)) {
    if (!value || (value != Py_None && !PyTuple_CheckExact(value))) {
        PyErr_SetString(PyExc_TypeError, "readers are a tuple, or None");
        return -1;
    }
    const Py_ssize_t count = value == Py_None ? 0 : PyTuple_GET_SIZE(value);
    Reader *reader = PyMem_Calloc(count + 1, sizeof *reader);
    if (!reader) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t index = 0; index < count; index++) {
        unsigned long long capacity;
        PyObject *one = PyTuple_GET_ITEM(value, index);
        if (!PyTuple_Check(one) || !PyArg_ParseTuple(one, "nK", &reader[index].slot, &capacity) ||
            reader[index].slot < 0 || reader[index].slot >= self->words.count - POSITION_WORD ||
            capacity > INT32_MAX) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError,
                                "a reader is a slot of the ledger and a capacity");
            PyMem_Free(reader);
            return -1;
        }
        reader[index].capacity = capacity;
    }
    PyMem_Free(self->reader);
    self->reader = reader;
    Py_XSETREF(self->readers, Py_NewRef(value));
    return 0;
}

static int sender_traverse(Emitter *self, visitproc visit, void *arg) {
    Py_VISIT(self->words.view);
    Py_VISIT(self->epoch);
    Py_VISIT(self->finish);
    Py_VISIT(self->bells);
    Py_VISIT(self->readers);
    return 0;
}

static int sender_clear(Emitter *self) {
    words_set(&self->words, NULL);
    Py_CLEAR(self->epoch);
    Py_CLEAR(self->finish);
    Py_CLEAR(self->bells);
    Py_CLEAR(self->readers);
    return 0;
}

static void sender_dealloc(Emitter *self) {
    PyObject_GC_UnTrack(self);
    sender_clear(self);
    PyMem_Free(self->bell);
    PyMem_Free(self->reader);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef sender_members[] = {
    {"_sent", T_ULONGLONG, offsetof(Emitter, sent), 0, NULL},
    {"_bytes", T_ULONGLONG, offsetof(Emitter, bytes), 0, NULL},
    {"_limit", T_LONGLONG, offsetof(Emitter, limit), 0, NULL},
    {"_sent_at", T_PYSSIZET, offsetof(Emitter, sent_at), 0, NULL},
    {"_handed_at", T_PYSSIZET, offsetof(Emitter, handed_at), 0, NULL},
    {"_bytes_at", T_PYSSIZET, offsetof(Emitter, bytes_at), 0, NULL},
    {"epoch", T_OBJECT_EX, offsetof(Emitter, epoch), 0, NULL},
    {"_finish_token", T_OBJECT_EX, offsetof(Emitter, finish), 0, NULL},
    {NULL},
};

static PyGetSetDef sender_getset[] = {
    {"_words", (getter)get_words, (setter)set_words, NULL, NULL},
    {"_bells", (getter)get_bells, (setter)set_bells, NULL, NULL},
    {"_readers", (getter)get_readers, (setter)set_readers, NULL, NULL},
    {NULL},
};

static PyMethodDef sender_methods[] = {
    {"try_loan", try_loan, METH_O,
     "Send what a loan holds if there is credit; None if there is none. Called by `Loan`."},
    {NULL},
};

PyTypeObject EmitterType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name =
        "remotemedia.core.multiprocess.native._native.Emitter",
    .tp_basicsize = sizeof(Emitter),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)sender_dealloc,
    .tp_traverse = (traverseproc)sender_traverse,
    .tp_clear = (inquiry)sender_clear,
    .tp_members = sender_members,
    .tp_getset = sender_getset,
    .tp_methods = sender_methods,
};

int init_sender(PyObject *module) {
    return !(name_try_loan_any = PyUnicode_InternFromString("_try_loan")) ||
                   !(name_send = PyUnicode_InternFromString("send")) ||
                   !(name_not_handed = PyUnicode_InternFromString("_not_handed")) ||
                   PyModule_AddType(module, &EmitterType)
               ? -1
               : 0;
}
