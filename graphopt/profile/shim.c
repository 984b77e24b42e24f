/* Stands between the entry point of an artifact and its kernels, and notes when each call began and ended.
 *
 * Generated in front of this text: KERNELS(X), one X(index, symbol) for each kernel. Loaded with
 * RTLD_GLOBAL before the artifact's library, whose calls of kernels then come here first.
 */
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <tvm/ffi/c_api.h>

typedef int (*Kernel)(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);

typedef struct {
  int64_t begin, end; /* nanoseconds */
  int64_t kernel, buffers;
} Event;

typedef struct {
  int64_t address, bytes, item_bytes;
} Buffer;

static const char* const kNames[] = {
#define NAME(index, symbol) #symbol,
    KERNELS(NAME)
#undef NAME
};
enum { kCount = sizeof(kNames) / sizeof(kNames[0]) };

static Kernel kernels[kCount];
static Event* events;
static Buffer* buffers;
static int64_t event_capacity, event_count, buffer_capacity, buffer_count;

static int64_t Now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static const DLTensor* AsTensor(const TVMFFIAny* any) {
  if (any->type_index == kTVMFFIDLTensorPtr) return (const DLTensor*)any->v_ptr;
  if (any->type_index == kTVMFFITensor) return (const DLTensor*)((const char*)any->v_obj + sizeof(TVMFFIObject));
  return NULL;
}

static int64_t NoteBuffers(const TVMFFIAny* arguments, int32_t count) {
  int64_t noted = 0;
  for (int32_t i = 0; i < count && buffer_count < buffer_capacity; ++i) {
    const DLTensor* tensor = AsTensor(&arguments[i]);
    if (tensor == NULL) continue;
    Buffer* buffer = &buffers[buffer_count++];
    buffer->address = (int64_t)(intptr_t)tensor->data + (int64_t)tensor->byte_offset;
    buffer->item_bytes = (tensor->dtype.bits * tensor->dtype.lanes + 7) / 8;
    buffer->bytes = buffer->item_bytes;
    for (int32_t axis = 0; axis < tensor->ndim; ++axis) buffer->bytes *= tensor->shape[axis];
    ++noted;
  }
  return noted;
}

static int Call(int index, void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  if (event_count >= event_capacity) return kernels[index](self, arguments, count, result);
  Event* event = &events[event_count++];
  event->kernel = index;
  event->buffers = buffer_count < buffer_capacity ? NoteBuffers(arguments, count) : 0;
  event->begin = Now();
  int code = kernels[index](self, arguments, count, result);
  event->end = Now();
  return code;
}

#define WRAP(index, symbol)                                                                          \
  int symbol(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {             \
    return Call(index, self, arguments, count, result);                                              \
  }
KERNELS(WRAP)
#undef WRAP

/* Finds the kernels of a library; how many it has. */
int graphopt_profile_open(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  int found = 0;
  for (int i = 0; i < kCount && library != NULL; ++i) {
    kernels[i] = (Kernel)dlsym(library, kNames[i]);
    found += kernels[i] != NULL;
  }
  return found;
}

/* Notes calls from now on in these arrays, until they are full; with capacity 0, none. */
void graphopt_profile_record(Event* to, int64_t capacity, Buffer* to_buffers, int64_t capacity_of_buffers) {
  events = to;
  event_capacity = capacity;
  event_count = 0;
  buffers = to_buffers;
  buffer_capacity = capacity_of_buffers;
  buffer_count = 0;
}

/* How many calls were noted. */
int64_t graphopt_profile_count(void) { return event_count; }

/* Nanoseconds of one call of a kernel that takes one vector of floats, the least of many. */
int64_t graphopt_profile_call(const char* path, const char* symbol, float* data, int64_t size) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  Kernel kernel = library == NULL ? NULL : (Kernel)dlsym(library, symbol);
  if (kernel == NULL) return -1;
  int64_t shape[1] = {size}, strides[1] = {1}, least = INT64_MAX;
  DLTensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.data = data;
  tensor.device.device_type = kDLCPU;
  tensor.ndim = 1;
  tensor.dtype.code = kDLFloat;
  tensor.dtype.bits = 32;
  tensor.dtype.lanes = 1;
  tensor.shape = shape;
  tensor.strides = strides;
  TVMFFIAny argument, result;
  memset(&argument, 0, sizeof argument);
  argument.type_index = kTVMFFIDLTensorPtr;
  argument.v_ptr = &tensor;
  for (int i = 0; i < 1000; ++i) {
    memset(&result, 0, sizeof result);
    int64_t begin = Now();
    if (kernel(NULL, &argument, 1, &result) != 0) return -1;
    int64_t taken = Now() - begin;
    if (taken < least) least = taken;
  }
  return least;
}
