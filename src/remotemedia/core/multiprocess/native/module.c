/* The module, and what it is told of the classes in Python. */

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "native.h"

Bound bound;

uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A bell that is full rings already, and one that is gone has nobody to wake. */
void ring(int fd) {
    const uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

int words_set(Words *words, PyObject *view) {
    Py_buffer buffer;
    if (!view) {
        words->at = NULL;
        words->count = 0;
        Py_CLEAR(words->view);
        return 0;
    }
    if (PyObject_GetBuffer(view, &buffer, PyBUF_WRITABLE))
        return -1;
    /* The view keeps the memory; a buffer that stayed out would forbid to release the view. */
    words->at = buffer.buf;
    words->count = buffer.len / (Py_ssize_t)sizeof *words->at;
    PyBuffer_Release(&buffer);
    Py_XSETREF(words->view, Py_NewRef(view));
    return 0;
}

/* Where a slot lies in the instances of a class; -1 with an error set. */
static Py_ssize_t offset_of(PyObject *type, const char *name) {
    PyObject *slot = PyObject_GetAttrString(type, name);
    Py_ssize_t offset = -1;
    if (slot && Py_TYPE(slot) == &PyMemberDescr_Type)
        offset = ((PyMemberDescrObject *)slot)->d_member->offset;
    else if (slot)
        PyErr_Format(PyExc_TypeError, "%s of %R is no slot", name, type);
    Py_XDECREF(slot);
    return offset;
}

/* Whether views of an array refer to it where `Array` says. */
static int is_laid_out(PyObject *array) {
    const PyTypeObject *type = Py_TYPE(array);
    PyObject *view = PyObject_GetItem(array, Py_Ellipsis);
    if (!view)
        return 0;
    const int is_right = Py_TYPE(view) == type && type->tp_weaklistoffset > 0 &&
                         type->tp_basicsize >= (Py_ssize_t)sizeof(Array) &&
                         ((Array *)view)->base == array;
    Py_DECREF(view);
    if (!is_right)
        PyErr_SetString(PyExc_ImportError, "this numpy lays out its arrays in another way");
    return is_right;
}

static PyObject *bind(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *message, *audio, *video, *layout, *no_metadata, *unpack, *array;
    if (!PyArg_ParseTuple(args, "O!O!O!O!OOO", &PyType_Type, &message, &PyType_Type, &audio,
                          &PyType_Type, &video, &PyType_Type, &layout, &no_metadata, &unpack,
                          &array) ||
        !is_laid_out(array))
        return NULL;
    if ((bound.array = offset_of(message, "_array")) < 0 ||
        (bound.gone = offset_of(message, "_gone")) < 0 ||
        (bound.timestamp_ns = offset_of(message, "timestamp_ns")) < 0 ||
        (bound.correlation_id = offset_of(message, "correlation_id")) < 0 ||
        (bound.metadata = offset_of(message, "metadata")) < 0 ||
        (bound.sample_rate = offset_of(audio, "sample_rate")) < 0 ||
        (bound.pixel_format = offset_of(video, "format")) < 0 ||
        (bound.layout_type = offset_of(layout, "type")) < 0 ||
        (bound.layout_parameter = offset_of(layout, "parameter")) < 0 ||
        (bound.layout_is_array = offset_of(layout, "is_array")) < 0 ||
        (bound.layout_payload_bytes = offset_of(layout, "payload_bytes")) < 0 ||
        (bound.layout_block = offset_of(layout, "block")) < 0)
        return NULL;
    bound.audio = (PyTypeObject *)Py_NewRef(audio);
    bound.video = (PyTypeObject *)Py_NewRef(video);
    bound.layout = (PyTypeObject *)Py_NewRef(layout);
    bound.array_type = (PyTypeObject *)Py_NewRef(Py_TYPE(array));
    bound.no_metadata = Py_NewRef(no_metadata);
    bound.unpack_header = Py_NewRef(unpack);
    bound.sent = PyUnicode_InternFromString("sent");
    if (!bound.sent)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"bind", bind, METH_VARARGS,
     "Tell where the slots of the messages and layouts lie, and show an array."},
    {NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "remotemedia.core.multiprocess.native._native",
    .m_doc = "The way of a message that is like the one before, in C.",
    .m_size = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&module_def);
    if (module && (init_chunk(module) || init_samples(module) || init_receiver(module) ||
                   init_sender(module) || init_loan(module)))
        Py_CLEAR(module);
    return module;
}
