# A digest of the contract between the engine and the CUDA backend's shared object: both are compiled with it, and the engine
# refuses a shared object with another one (kernels/cuda_loader.cc).
set(contract "")
file(GLOB operands RELATIVE ${CMAKE_CURRENT_SOURCE_DIR}/engine CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/engine/kernels/operands/*.h)
foreach(header kernels/backend.h kernels/device_memory.h kernels/kernels.h kernels/kernel_list.h ${operands} collective/collective.h core/cancel.h core/tensor.h core/pool.h core/dtype.h core/rng.h core/error.h core/version.h)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/engine/${header})
  file(READ ${CMAKE_CURRENT_SOURCE_DIR}/engine/${header} text)
  string(APPEND contract "${text}")
endforeach()
string(SHA256 digest "${contract}")
string(SUBSTRING ${digest} 0 16 digest)
set(SPINDLE_KERNELS_ABI "\"${digest}\"")
