// How long work takes on the device, for choosing between plans. Waits for the device: never while
// a stream is captured.
#pragma once
#include <functional>

#include "kernels/cuda/library/check.h"

namespace spindle::cuda {

inline bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  SPINDLE_CUDA_CALL(cudaStreamIsCapturing(stream, &status), "a stream");
  return status != cudaStreamCaptureStatusNone;
}

class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) {
    SPINDLE_CUDA_CALL(cudaEventCreate(&begin_), "a stopwatch");
    if (cudaEventCreate(&end_) != cudaSuccess) {
      cudaEventDestroy(begin_);
      library_failed("CUDA", "cudaEventCreate(&end_)", "no event", "a stopwatch");
    }
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;

  // Seconds of one run, the shortest of three after one that is not counted.
  double measure(const std::function<void()>& work) {
    work();
    float shortest = 0;
    for (int i = 0; i < 3; ++i) {
      SPINDLE_CUDA_CALL(cudaEventRecord(begin_, stream_), "a stopwatch");
      work();
      SPINDLE_CUDA_CALL(cudaEventRecord(end_, stream_), "a stopwatch");
      SPINDLE_CUDA_CALL(cudaEventSynchronize(end_), "a stopwatch");
      float milliseconds = 0;
      SPINDLE_CUDA_CALL(cudaEventElapsedTime(&milliseconds, begin_, end_), "a stopwatch");
      if (i == 0 || milliseconds < shortest) shortest = milliseconds;
    }
    return shortest / 1e3;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace spindle::cuda
