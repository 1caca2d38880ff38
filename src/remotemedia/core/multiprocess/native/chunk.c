/* Memory for one sample, and the views that messages are. */

#include "native.h"

static int chunk_init(Chunk *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"header", "address", "body", NULL};
    PyObject *header, *body = NULL;
    unsigned long long address;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OK|O:Chunk", names, &header, &address, &body))
        return -1;
    if (self->header) {
        PyErr_SetString(PyExc_TypeError, "a chunk is made once");
        return -1;
    }
    if (PyObject_GetBuffer(header, &self->header_view, PyBUF_SIMPLE))
        return -1;
    if (self->header_view.len < (Py_ssize_t)sizeof(WireHeader)) {
        PyBuffer_Release(&self->header_view);
        PyErr_SetString(PyExc_ValueError, "the header is too short");
        return -1;
    }
    self->header = Py_NewRef(header);
    self->address = address;
    self->body = body ? Py_NewRef(body) : PyMemoryView_FromMemory("", 0, PyBUF_READ);
    if (!self->body)
        return -1;
    self->capacity = body ? PyObject_Size(body) : 0;
    self->array = Py_NewRef(Py_None);
    self->layout = Py_NewRef(Py_None);
    return self->capacity < 0 ? -1 : 0;
}

static int chunk_traverse(Chunk *self, visitproc visit, void *arg) {
    Py_VISIT(self->header); /* once, though `header_view` has it too: a view that has handed out a
                               buffer must not be cleared, which CPython does not survive */
    Py_VISIT(self->body);
    Py_VISIT(self->array);
    Py_VISIT(self->layout);
    return 0;
}

static int chunk_clear(Chunk *self) {
    PyBuffer_Release(&self->header_view);
    Py_CLEAR(self->header);
    Py_CLEAR(self->body);
    Py_CLEAR(self->array);
    Py_CLEAR(self->layout);
    return 0;
}

static void chunk_dealloc(Chunk *self) {
    PyObject_GC_UnTrack(self);
    chunk_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef chunk_members[] = {
    {"header", T_OBJECT_EX, offsetof(Chunk, header), READONLY, NULL},
    {"address", T_ULONGLONG, offsetof(Chunk, address), READONLY, NULL},
    {"body", T_OBJECT_EX, offsetof(Chunk, body), READONLY, NULL},
    {"capacity", T_PYSSIZET, offsetof(Chunk, capacity), 0, NULL},
    {"array", T_OBJECT_EX, offsetof(Chunk, array), 0, NULL},
    {"layout", T_OBJECT_EX, offsetof(Chunk, layout), 0, NULL},
    {NULL},
};

PyTypeObject ChunkType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "remotemedia.core.multiprocess.native._native.Chunk",
    .tp_basicsize = sizeof(Chunk),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)chunk_init,
    .tp_dealloc = (destructor)chunk_dealloc,
    .tp_traverse = (traverseproc)chunk_traverse,
    .tp_clear = (inquiry)chunk_clear,
    .tp_members = chunk_members,
};

PyObject *new_array_message(PyObject *layout, PyObject *array, int64_t timestamp_ns,
                            uint64_t correlation_id) {
    PyTypeObject *type = (PyTypeObject *)slot_get(layout, bound.layout_type);
    /* The view first: it keeps the array. What has a finaliser may run in `tp_alloc`. */
    PyObject *view = PyObject_GetItem(array, Py_Ellipsis);
    PyObject *message = view ? type->tp_alloc(type, 0) : NULL;
    if (!message) {
        Py_XDECREF(view);
        return NULL;
    }
    PyObject *timestamp = PyLong_FromLongLong(timestamp_ns);
    PyObject *correlation = PyLong_FromUnsignedLongLong(correlation_id);
    if (!timestamp || !correlation) {
        Py_DECREF(view);
        Py_XDECREF(timestamp);
        Py_XDECREF(correlation);
        Py_DECREF(message);
        return NULL;
    }
    slot_set(message, bound.array, view);
    slot_set(message, bound.timestamp_ns, timestamp);
    slot_set(message, bound.correlation_id, correlation);
    slot_set(message, bound.metadata, Py_NewRef(bound.no_metadata));
    if (type == bound.audio)
        slot_set(message, bound.sample_rate, Py_NewRef(slot_get(layout, bound.layout_parameter)));
    else if (type == bound.video)
        slot_set(message, bound.pixel_format, Py_NewRef(slot_get(layout, bound.layout_parameter)));
    return message;
}

int init_chunk(PyObject *module) {
    return PyModule_AddType(module, &ChunkType);
}
