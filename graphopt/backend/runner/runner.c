/* Runs one variant of an artifact on a machine without Python, such as an emulated one.
 *
 * Usage: runner PLAN. The plan is a text file of words, one record a line:
 *
 *   library PATH                                      shared object of the variant, first
 *   tensor  CODE BITS RANK EXTENT... OFFSET PATH      arguments in the order that the entry point takes:
 *                                                     row-major at OFFSET (a multiple of 64) of a file
 *   output  PATH                                      where to write each result, row-major
 *
 * CODE and BITS are those of DLDataType, paths hold no blanks. For every result a line
 * "CODE BITS RANK EXTENT..." is printed. Exit code 0, or 1 with the reason on standard error.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

enum { kPooledAllocator = 2, kMaxPath = 4096, kMaxRank = 64 };

static _Noreturn void Fail(const char* what, const char* detail) {
  fprintf(stderr, "%s%s\n", what, detail);
  exit(1);
}

static void Check(int code) {
  if (code == 0) return;
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  if (error == NULL) Fail("unknown error", "");
  const TVMFFIErrorCell* cell = (const TVMFFIErrorCell*)((const char*)error + sizeof(TVMFFIObject));
  fprintf(stderr, "%.*s: %.*s\n", (int)cell->kind.size, cell->kind.data, (int)cell->message.size,
          cell->message.data);
  exit(1);
}

static TVMFFIAny Object(int32_t type, TVMFFIObjectHandle object) {
  TVMFFIAny any = {.type_index = type};
  any.v_obj = object;
  return any;
}

static TVMFFIAny Text(const char* text) {
  TVMFFIAny any = {.type_index = kTVMFFIRawStr};
  any.v_c_str = text;
  return any;
}

static TVMFFIAny Number(int type, int64_t number) {
  TVMFFIAny any = {.type_index = type};
  any.v_int64 = number;
  return any;
}

static TVMFFIAny Call(TVMFFIObjectHandle function, TVMFFIAny* arguments, int count) {
  TVMFFIAny result = {.type_index = kTVMFFINone};
  Check(TVMFFIFunctionCall(function, arguments, count, &result));
  return result;
}

static TVMFFIAny CallGlobal(const char* name, TVMFFIAny* arguments, int count) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  Check(TVMFFIFunctionGetGlobal(&key, &function));
  if (function == NULL) Fail("the runtime lacks ", name);
  return Call(function, arguments, count);
}

static TVMFFIObjectHandle Method(TVMFFIAny module, const char* name) {
  TVMFFIAny arguments[] = {module, Text(name), Number(kTVMFFIBool, 0)};
  TVMFFIAny function = CallGlobal("ffi.ModuleGetFunction", arguments, 3);
  if (function.type_index != kTVMFFIFunction) Fail("the library lacks ", name);
  return function.v_obj;
}

/* The files are mapped for as long as the process runs, so there is nothing to release. */
static char* MapFile(const char* path) {
  struct stat found;
  int descriptor = open(path, O_RDONLY);
  if (descriptor < 0 || fstat(descriptor, &found) != 0) Fail("can't open ", path);
  if (found.st_size == 0) return NULL;
  void* data = mmap(NULL, found.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (data == MAP_FAILED) Fail("can't map ", path);
  close(descriptor);
  return data;
}

static TVMFFIAny ReadTensor(FILE* plan) {
  int code, bits, rank;
  uint64_t offset;
  char path[kMaxPath];
  if (fscanf(plan, "%d %d %d", &code, &bits, &rank) != 3 || rank < 0 || rank > kMaxRank)
    Fail("damaged plan: ", "tensor");
  DLManagedTensor* managed = calloc(1, sizeof *managed);
  int64_t* shape = calloc(kMaxRank, sizeof *shape);
  if (managed == NULL || shape == NULL) Fail("out of memory", "");
  for (int axis = 0; axis < rank; ++axis)
    if (fscanf(plan, "%" SCNd64, &shape[axis]) != 1) Fail("damaged plan: ", "extent");
  if (fscanf(plan, "%" SCNu64 " %4095s", &offset, path) != 2) Fail("damaged plan: ", "path");
  managed->dl_tensor.data = MapFile(path) + offset;
  managed->dl_tensor.device.device_type = kDLCPU;
  managed->dl_tensor.ndim = rank;
  managed->dl_tensor.dtype.code = (uint8_t)code;
  managed->dl_tensor.dtype.bits = (uint8_t)bits;
  managed->dl_tensor.dtype.lanes = 1;
  managed->dl_tensor.shape = shape;
  TVMFFIObjectHandle tensor = NULL;
  Check(TVMFFITensorFromDLPack(managed, 0, 1, &tensor));
  return Object(kTVMFFITensor, tensor);
}

static void WriteTensor(TVMFFIAny any, const char* path) {
  if (any.type_index != kTVMFFITensor) Fail("a result is not a tensor", "");
  const DLTensor* tensor = (const DLTensor*)((const char*)any.v_obj + sizeof(TVMFFIObject));
  size_t bytes = (tensor->dtype.bits + 7) / 8;
  printf("%d %d %d", tensor->dtype.code, tensor->dtype.bits, (int)tensor->ndim);
  for (int axis = 0; axis < tensor->ndim; ++axis) {
    bytes *= (size_t)tensor->shape[axis];
    printf(" %" PRId64, tensor->shape[axis]);
  }
  printf("\n");
  FILE* stream = fopen(path, "wb");
  if (stream == NULL) Fail("can't write ", path);
  const char* data = (const char*)tensor->data + tensor->byte_offset;
  if ((bytes > 0 && fwrite(data, 1, bytes, stream) != bytes) || fclose(stream) != 0) Fail("can't write ", path);
}

int main(int count, char** words) {
  if (count != 2) Fail("usage: runner PLAN", "");
  FILE* plan = fopen(words[1], "r");
  if (plan == NULL) Fail("can't open ", words[1]);
  char kind[16], path[kMaxPath];
  if (fscanf(plan, "%15s %4095s", kind, path) != 2 || strcmp(kind, "library") != 0)
    Fail("damaged plan: ", "library");
  TVMFFIAny name = Text(path);
  TVMFFIAny library = CallGlobal("ffi.ModuleLoadFromFile", &name, 1);
  TVMFFIAny machine = Call(Method(library, "vm_load_executable"), NULL, 0);
  TVMFFIAny setup[] = {Number(kTVMFFIInt, kDLCPU), Number(kTVMFFIInt, 0), Number(kTVMFFIInt, kPooledAllocator)};
  Call(Method(machine, "vm_initialization"), setup, 3);

  TVMFFIAny* arguments = NULL;
  int taken = 0;
  char outcome = 0;
  TVMFFIAny results = {.type_index = kTVMFFINone};
  for (int64_t written = 0; fscanf(plan, "%15s", kind) == 1;) {
    if (strcmp(kind, "tensor") == 0 && !outcome) {
      arguments = realloc(arguments, (taken + 1) * sizeof *arguments);
      if (arguments == NULL) Fail("out of memory", "");
      arguments[taken++] = ReadTensor(plan);
    } else if (strcmp(kind, "output") == 0 && fscanf(plan, "%4095s", path) == 1) {
      if (!outcome) results = Call(Method(machine, "main"), arguments, taken);
      outcome = 1;
      TVMFFIAny place[] = {results, Number(kTVMFFIInt, written++)};
      WriteTensor(CallGlobal("ffi.ArrayGetItem", place, 2), path);
    } else {
      Fail("damaged plan: ", kind);
    }
  }
  return 0;
}
