/* A message on loan: made, and sent when its block ends. */

#include "native.h"

static PyObject *name_send_loan, *name_discard, *name_view;

static int loan_init(Loan *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"layout", "chunk", "token", NULL};
    PyObject *layout, *chunk, *token;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!O:Loan", names, &layout, &ChunkType, &chunk,
                                     &token))
        return -1;
    if (Py_TYPE(layout) != bound.layout || slot_get(layout, bound.layout_is_array) != Py_True) {
        PyErr_SetString(PyExc_TypeError, "a loan has the layout of an array");
        return -1;
    }
    Py_XSETREF(self->layout, Py_NewRef(layout));
    Py_XSETREF(self->chunk, Py_NewRef(chunk));
    Py_XSETREF(self->token, Py_NewRef(token));
    if (((Chunk *)chunk)->layout != layout) {
        PyObject *done = PyObject_CallMethodNoArgs((PyObject *)self, name_view);
        Py_XDECREF(done);
        if (!done)
            return -1;
    }
    PyObject *array = Py_XNewRef(((Chunk *)chunk)->array);
    PyObject *message = new_array_message(layout, array, (int64_t)monotonic_ns(), 0);
    Py_XDECREF(array);
    if (!message)
        return -1;
    Py_XSETREF(self->message, message);
    return 0;
}

static PyObject *loan_enter(Loan *self, PyObject *Py_UNUSED(none)) {
    if (!self->message) {
        PyErr_SetString(PyExc_AttributeError, "message");
        return NULL;
    }
    return Py_NewRef(self->message);
}

static inline int is_out(const Loan *self) {
    return self->token && self->token != Py_None;
}

/* Gives it back if it is still out, and keeps the error that is set. */
static int discard(Loan *self) {
    if (!is_out(self))
        return 0;
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyObject *done = PyObject_CallMethodNoArgs((PyObject *)self, name_discard);
    Py_XDECREF(done);
    if (!done) {
        Py_XDECREF(type);
        Py_XDECREF(error);
        Py_XDECREF(trace);
        return -1;
    }
    PyErr_Restore(type, error, trace);
    return 0;
}

static PyObject *loan_exit(Loan *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "__exit__ takes what was raised: three arguments");
        return NULL;
    }
    PyObject *sent = Py_NewRef(Py_None);
    if (args[0] == Py_None && is_out(self)) {
        if (!self->publisher || !PyObject_TypeCheck(self->publisher, &EmitterType)) {
            PyErr_SetString(PyExc_AttributeError, "publisher");
            Py_CLEAR(sent);
        } else {
            PyObject *publisher = Py_NewRef(self->publisher);
            Py_SETREF(sent, try_loan(publisher, (PyObject *)self));
            if (sent == Py_None)
                Py_SETREF(sent,
                          PyObject_CallMethodOneArg(publisher, name_send_loan, (PyObject *)self));
            Py_DECREF(publisher);
        }
    }
    if (discard(self)) /* not sent: it goes back, however long the error is kept */
        Py_CLEAR(sent);
    if (!sent)
        return NULL;
    Py_DECREF(sent);
    Py_RETURN_NONE;
}

static void loan_finalize(Loan *self) {
    if (is_out(self) && self->message && self->chunk) {
        PyObject *type, *error, *trace;
        PyErr_Fetch(&type, &error, &trace);
        if (discard(self))
            PyErr_WriteUnraisable((PyObject *)self);
        PyErr_Restore(type, error, trace);
    }
}

static int loan_traverse(Loan *self, visitproc visit, void *arg) {
    Py_VISIT(self->publisher);
    Py_VISIT(self->message);
    Py_VISIT(self->chunk);
    Py_VISIT(self->layout);
    Py_VISIT(self->token);
    return 0;
}

static int loan_clear(Loan *self) {
    Py_CLEAR(self->publisher);
    Py_CLEAR(self->message);
    Py_CLEAR(self->chunk);
    Py_CLEAR(self->layout);
    Py_CLEAR(self->token);
    return 0;
}

static void loan_dealloc(Loan *self) {
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0)
        return;
    PyObject_GC_UnTrack(self);
    loan_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef loan_members[] = {
    {"publisher", T_OBJECT_EX, offsetof(Loan, publisher), 0, NULL},
    {"message", T_OBJECT_EX, offsetof(Loan, message), READONLY, NULL},
    {"chunk", T_OBJECT_EX, offsetof(Loan, chunk), 0, NULL},
    {"layout", T_OBJECT_EX, offsetof(Loan, layout), 0, NULL},
    {"token", T_OBJECT_EX, offsetof(Loan, token), 0, NULL},
    {NULL},
};

static PyMethodDef loan_methods[] = {
    {"__enter__", (PyCFunction)loan_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)loan_exit, METH_FASTCALL, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

PyTypeObject LoanType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name =
        "remotemedia.core.multiprocess.native._native.LoanBase",
    .tp_basicsize = sizeof(Loan),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)loan_init,
    .tp_dealloc = (destructor)loan_dealloc,
    .tp_finalize = (destructor)loan_finalize,
    .tp_traverse = (traverseproc)loan_traverse,
    .tp_clear = (inquiry)loan_clear,
    .tp_members = loan_members,
    .tp_methods = loan_methods,
};

int init_loan(PyObject *module) {
    return !(name_send_loan = PyUnicode_InternFromString("send_loan")) ||
                   !(name_discard = PyUnicode_InternFromString("discard")) ||
                   !(name_view = PyUnicode_InternFromString("_view")) ||
                   PyModule_AddType(module, &LoanType)
               ? -1
               : 0;
}
