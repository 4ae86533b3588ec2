# The CUDA backend on an emulated device (test/cuda_emulator), for tests: the same .cu files through the C++ compiler.
file(GLOB emulated_cu CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/engine/kernels/cuda/*.cu)
file(GLOB emulated_cc CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/engine/kernels/cuda/*.cc ${CMAKE_CURRENT_SOURCE_DIR}/test/cuda_emulator/*.cc)
# What is for a real device only; the emulator has its own.
list(FILTER emulated_cu EXCLUDE REGEX "/kernels/cuda/runtime\\.cu$")
list(FILTER emulated_cc EXCLUDE REGEX "/kernels/cuda/libraries\\.cc$")
# Through files of their own: a source has one language in all targets, and for nvcc it is CUDA.
foreach(source ${emulated_cu})
  get_filename_component(name ${source} NAME)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/cuda_emulated/${name}.cc CONTENT "#include \"${source}\"\n" @ONLY)
  list(APPEND emulated_cc ${CMAKE_BINARY_DIR}/cuda_emulated/${name}.cc)
endforeach()
add_library(spindle_cuda_emulated MODULE ${emulated_cc})
set_target_properties(spindle_cuda_emulated PROPERTIES PREFIX "" SUFFIX ".so" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
target_compile_definitions(spindle_cuda_emulated PRIVATE SPINDLE_CUDA_EMULATED "SPINDLE_KERNELS_ABI=${SPINDLE_KERNELS_ABI}")
target_include_directories(spindle_cuda_emulated PRIVATE test)
target_link_libraries(spindle_cuda_emulated PRIVATE spindle_engine spindle_flags)
# A kernel that the backend lacks is named when it is linked.
target_link_options(spindle_cuda_emulated PRIVATE -Wl,--no-undefined)
