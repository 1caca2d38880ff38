/* The samples of the library: taken and lent, in chunks that are known. */

#include "native.h"

static PyObject *name_user_header_ptr, *name_payload_ptr, *name_header, *name_number_of_elements;
static PyObject *name_remember, *name_room_at_most, *name_not_taken, *name_not_lent,
    *name_loan_anew;

PyObject *sample_key(PyObject *sample) {
    return PyObject_GetAttr(sample, name_user_header_ptr);
}

/* Python does not raise it itself: its frame would keep the error, and that all frames. */
PyObject *hand_over_error(PyObject *self, PyObject *method, PyObject *extra) {
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace)
        PyException_SetTraceback(error, trace);
    PyObject *result = PyObject_CallMethodObjArgs(self, method, error, extra, NULL);
    if (result) {
        Py_DECREF(result);
        PyErr_Restore(type, error, trace);
        return NULL;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    return NULL;
}

/* ---- SampleTaker ---- */

typedef struct {
    PyObject_HEAD
    PyObject *receive; /* the library's */
    PyObject *chunks;  /* dict: address of the user header -> Chunk */
} Taker;

static PyObject *taker_chunk(Taker *self, PyObject *sample) {
    PyObject *key = sample_key(sample);
    if (!key)
        return NULL;
    PyObject *chunk = Py_XNewRef(PyDict_GetItemWithError(self->chunks, key));
    if (!chunk && !PyErr_Occurred()) {
        PyObject *address = PyObject_GetAttr(sample, name_payload_ptr);
        if (address) {
            chunk = PyObject_CallMethodObjArgs((PyObject *)self, name_remember, key, address, NULL);
            Py_DECREF(address);
        }
    }
    Py_DECREF(key);
    if (chunk && !PyObject_TypeCheck(chunk, &ChunkType)) {
        PyErr_SetString(PyExc_TypeError, "what is remembered is no chunk");
        Py_CLEAR(chunk);
    }
    return chunk;
}

static PyObject *taker_take(Taker *self, PyObject *Py_UNUSED(none)) {
    if (!self->receive || !self->chunks || !PyDict_Check(self->chunks)) {
        PyErr_SetString(PyExc_AttributeError, "the reader is not set up");
        return NULL;
    }
    PyObject *receive = Py_NewRef(self->receive); /* a close may put another in its place */
    PyObject *sample = PyObject_CallNoArgs(receive);
    Py_DECREF(receive);
    if (!sample)
        return hand_over_error((PyObject *)self, name_not_taken, NULL);
    if (sample == Py_None)
        return sample;
    PyObject *chunk = taker_chunk(self, sample), *result = NULL, *room = NULL;
    if (!chunk)
        goto done;
    PyObject *header = PyObject_GetAttr(sample, name_header);
    PyObject *elements = header ? PyObject_GetAttr(header, name_number_of_elements) : NULL;
    Py_XDECREF(header);
    if (!elements)
        goto done;
    /* The writer's word for it; there may be less, and what is read beyond that kills us. */
    unsigned long long blocks = PyLong_AsUnsignedLongLong(elements);
    Py_DECREF(elements);
    if (blocks == (unsigned long long)-1 && PyErr_Occurred())
        goto done;
    unsigned long long bytes = blocks > (UINT64_MAX >> 7) ? UINT64_MAX >> 1 : blocks << 6;
    room = PyLong_FromUnsignedLongLong(bytes);
    const Py_ssize_t capacity = ((Chunk *)chunk)->capacity;
    if (room && (capacity < 0 || bytes > (unsigned long long)capacity))
        Py_SETREF(room, PyObject_CallMethodObjArgs((PyObject *)self, name_room_at_most, room, chunk,
                                                   NULL));
    if (room)
        result = PyTuple_Pack(3, chunk, room, sample);
done:
    Py_XDECREF(room);
    Py_XDECREF(chunk);
    Py_DECREF(sample);
    return result;
}

static int taker_traverse(Taker *self, visitproc visit, void *arg) {
    Py_VISIT(self->receive);
    Py_VISIT(self->chunks);
    return 0;
}

static int taker_clear(Taker *self) {
    Py_CLEAR(self->receive);
    Py_CLEAR(self->chunks);
    return 0;
}

static void taker_dealloc(Taker *self) {
    PyObject_GC_UnTrack(self);
    taker_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef taker_members[] = {
    {"_receive", T_OBJECT_EX, offsetof(Taker, receive), 0, NULL},
    {"_chunks", T_OBJECT_EX, offsetof(Taker, chunks), 0, NULL},
    {NULL},
};

static PyMethodDef taker_methods[] = {
    {"take", (PyCFunction)taker_take, METH_NOARGS, "See `Reader.take`."},
    {NULL},
};

PyTypeObject TakerType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name =
        "remotemedia.core.multiprocess.native._native.SampleTaker",
    .tp_basicsize = sizeof(Taker),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)taker_dealloc,
    .tp_traverse = (traverseproc)taker_traverse,
    .tp_clear = (inquiry)taker_clear,
    .tp_members = taker_members,
    .tp_methods = taker_methods,
};

/* ---- SampleLender ---- */

typedef struct {
    PyObject_HEAD
    PyObject *lend;   /* the library's */
    PyObject *chunks; /* dict: address of the user header -> Chunk */
    Py_ssize_t room;  /* bytes a chunk of the present segment has */
} SampleLender;

static PyObject *lender_known(SampleLender *self, Py_ssize_t nbytes) {
    PyObject *elements = PyLong_FromSsize_t((nbytes + 63) >> 6);
    PyObject *lend = Py_NewRef(self->lend);
    PyObject *sample = elements ? PyObject_CallOneArg(lend, elements) : NULL;
    Py_DECREF(lend);
    Py_XDECREF(elements);
    if (!sample)
        return NULL;
    PyObject *key = sample_key(sample), *result = NULL;
    /* Ours: making a tuple may begin a collection, that may close the writer: it forgets all. */
    PyObject *chunk = key ? Py_XNewRef(PyDict_GetItemWithError(self->chunks, key)) : NULL;
    if (chunk && PyObject_TypeCheck(chunk, &ChunkType) && ((Chunk *)chunk)->capacity >= nbytes)
        result = PyTuple_Pack(2, chunk, sample);
    else if (!PyErr_Occurred())
        result = Py_NewRef(Py_None); /* the sample is given back */
    Py_XDECREF(chunk);
    Py_XDECREF(key);
    Py_DECREF(sample);
    return result;
}

static PyObject *lender_loan(SampleLender *self, PyObject *argument) {
    Py_ssize_t nbytes = PyLong_AsSsize_t(argument);
    if (nbytes == -1 && PyErr_Occurred())
        return NULL;
    if (!self->lend || !self->chunks || !PyDict_Check(self->chunks)) {
        PyErr_SetString(PyExc_AttributeError, "the writer is not set up");
        return NULL;
    }
    PyObject *result =
        nbytes >= 0 && nbytes <= self->room ? lender_known(self, nbytes) : Py_NewRef(Py_None);
    if (result == Py_None)
        Py_SETREF(result, PyObject_CallMethodOneArg((PyObject *)self, name_loan_anew, argument));
    return result ? result : hand_over_error((PyObject *)self, name_not_lent, argument);
}

static int lender_traverse(SampleLender *self, visitproc visit, void *arg) {
    Py_VISIT(self->lend);
    Py_VISIT(self->chunks);
    return 0;
}

static int lender_clear(SampleLender *self) {
    Py_CLEAR(self->lend);
    Py_CLEAR(self->chunks);
    return 0;
}

static void lender_dealloc(SampleLender *self) {
    PyObject_GC_UnTrack(self);
    lender_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef lender_members[] = {
    {"_lend", T_OBJECT_EX, offsetof(SampleLender, lend), 0, NULL},
    {"_chunks", T_OBJECT_EX, offsetof(SampleLender, chunks), 0, NULL},
    {"_room", T_PYSSIZET, offsetof(SampleLender, room), 0, NULL},
    {NULL},
};

static PyMethodDef lender_methods[] = {
    {"loan", (PyCFunction)lender_loan, METH_O, "See `Writer.loan`."},
    {NULL},
};

PyTypeObject LenderType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name =
        "remotemedia.core.multiprocess.native._native.SampleLender",
    .tp_basicsize = sizeof(SampleLender),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)lender_dealloc,
    .tp_traverse = (traverseproc)lender_traverse,
    .tp_clear = (inquiry)lender_clear,
    .tp_members = lender_members,
    .tp_methods = lender_methods,
};

int init_samples(PyObject *module) {
    return !(name_user_header_ptr = PyUnicode_InternFromString("user_header_ptr")) ||
                   !(name_payload_ptr = PyUnicode_InternFromString("payload_ptr")) ||
                   !(name_header = PyUnicode_InternFromString("header")) ||
                   !(name_number_of_elements = PyUnicode_InternFromString("number_of_elements")) ||
                   !(name_remember = PyUnicode_InternFromString("_remember")) ||
                   !(name_room_at_most = PyUnicode_InternFromString("_room_at_most")) ||
                   !(name_not_taken = PyUnicode_InternFromString("_not_taken")) ||
                   !(name_not_lent = PyUnicode_InternFromString("_not_lent")) ||
                   !(name_loan_anew = PyUnicode_InternFromString("_loan_locked")) ||
                   PyModule_AddType(module, &TakerType) || PyModule_AddType(module, &LenderType)
               ? -1
               : 0;
}
