// What looks like the CUDA backend of another build, for the loader's tests.
#define SPINDLE_EXPORT extern "C" __attribute__((visibility("default")))

SPINDLE_EXPORT const char* spindle_cuda_abi() { return "0123abcd"; }
SPINDLE_EXPORT const char* spindle_cuda_why_not() { return ""; }
SPINDLE_EXPORT void* spindle_cuda_make(const void*) { return nullptr; }
