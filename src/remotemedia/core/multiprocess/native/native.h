/* What the files of this extension share. Its rules stand in `__init__.py`. */

#ifndef REMOTEMEDIA_NATIVE_H
#define REMOTEMEDIA_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <structmember.h>

/* The header of a message on the wire: see remotemedia/data/wire.py. */
typedef struct {
    char layout[56];
    uint32_t zero;
    uint32_t metadata_bytes;
    uint64_t sequence;
    uint32_t context_zero;
    uint32_t epoch;
    uint64_t context_zeros;
    uint64_t correlation_id;
    int64_t timestamp_ns;
    uint64_t sent_ns;
} WireHeader;

_Static_assert(sizeof(WireHeader) == 112, "the header on the wire has 112 bytes");

/* A view of the ledger's words, and what keeps them mapped. */
typedef struct {
    PyObject *view; /* a memoryview of u64, or NULL */
    uint64_t *at;
    Py_ssize_t count;
} Words;

int words_set(Words *words, PyObject *view);

static inline uint64_t load(const Words *words, Py_ssize_t at) {
    return __atomic_load_n(&words->at[at], __ATOMIC_ACQUIRE);
}

static inline void store(const Words *words, Py_ssize_t at, uint64_t value) {
    __atomic_store_n(&words->at[at], value, __ATOMIC_RELEASE);
}

/* Of transport/ledger.py: a word of the ledger, three of a connection, a reader's state, and how
   many words a histogram has. */
enum { EPOCH_WORD = 1, STATE_WORD = 0, BASE_WORD = 1, POSITION_WORD = 2 };
enum { STATE_OPEN = 1, HISTOGRAM_BUCKETS = 40 };

/* See `Chunk` in portable.py. */
typedef struct {
    PyObject_HEAD
    PyObject *header;
    Py_buffer header_view;
    unsigned long long address;
    PyObject *body;
    Py_ssize_t capacity;
    PyObject *array;
    PyObject *layout;
} Chunk;

/* See `LoanBase` in portable.py. `token` is None once it was sent or given back. */
typedef struct {
    PyObject_HEAD
    PyObject *publisher, *message, *chunk, *layout, *token;
} Loan;

extern PyTypeObject ChunkType, ReceiverType, EmitterType, LoanType, TakerType, LenderType;

/* How numpy lays out an array, as far as it is looked at. `bind` holds one against it. */
typedef struct {
    PyObject_HEAD
    char *data;
    int dimensions;
    Py_ssize_t *shape, *strides;
    PyObject *base;
} Array;

/* Where the slots of the classes of `remotemedia.data` lie, and what the code compares with. Set
   once, by `bind`. */
typedef struct {
    Py_ssize_t array, gone, timestamp_ns, correlation_id, metadata;
    Py_ssize_t layout_type, layout_parameter, layout_is_array, layout_payload_bytes, layout_block;
    PyTypeObject *audio, *video, *layout, *array_type;
    Py_ssize_t sample_rate, pixel_format;
    PyObject *no_metadata, *sent, *unpack_header;
} Bound;

extern Bound bound;

static inline PyObject *slot_get(PyObject *owner, Py_ssize_t offset) {
    return *(PyObject **)((char *)owner + offset); /* borrowed; NULL where it was never set */
}

/* Steals `value`. Anything may run when the old value goes. */
static inline void slot_set(PyObject *owner, Py_ssize_t offset, PyObject *value) {
    PyObject **place = (PyObject **)((char *)owner + offset), *old = *place;
    *place = value;
    Py_XDECREF(old);
}

/* The bytes of a layout in a header; NULL where it has none of that length. */
static inline const char *block_of(PyObject *layout) {
    PyObject *block = slot_get(layout, bound.layout_block);
    const int is_whole = block && PyBytes_CheckExact(block) &&
                         PyBytes_GET_SIZE(block) == sizeof ((WireHeader *)0)->layout;
    return is_whole ? PyBytes_AS_STRING(block) : NULL;
}

/* A negative index is none, here. */
static inline int is_word(const Words *words, Py_ssize_t at) {
    return (size_t)at < (size_t)words->count;
}

uint64_t monotonic_ns(void);
void ring(int fd);

/* Makes the message of an array layout around a view of `array`; its envelope is given. */
PyObject *new_array_message(PyObject *layout, PyObject *array, int64_t timestamp_ns,
                            uint64_t correlation_id);

/* Has `method` of `self` raise another error in place of the one that is set, if there is one.
   Returns NULL. */
PyObject *hand_over_error(PyObject *self, PyObject *method, PyObject *extra);

/* Has an emitter send a loan if there is credit; None if there is none. See `Sender._try_loan`, in
   Python, which is built on it. */
PyObject *try_loan(PyObject *emitter, PyObject *loan);

/* The user header's address, which is what a chunk is known by; NULL with an error set. */
PyObject *sample_key(PyObject *sample);

int init_chunk(PyObject *module);
int init_samples(PyObject *module);
int init_receiver(PyObject *module);
int init_sender(PyObject *module);
int init_loan(PyObject *module);

#endif
