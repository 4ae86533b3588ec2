# SPINDLE_SANITIZE: empty, `address` (AddressSanitizer and UndefinedBehaviorSanitizer) or `thread` (ThreadSanitizer).
set(SPINDLE_SANITIZE "" CACHE STRING "Sanitizers to build with: empty, address or thread")
set_property(CACHE SPINDLE_SANITIZE PROPERTY STRINGS "" address thread)
set(sanitizers_of_address address,undefined)
set(sanitizers_of_thread thread)
if(SPINDLE_SANITIZE AND NOT DEFINED sanitizers_of_${SPINDLE_SANITIZE})
  message(FATAL_ERROR "SPINDLE_SANITIZE: expected address, thread or nothing, got ${SPINDLE_SANITIZE}")
endif()

# Adds the options to the interface library `flags`.
function(spindle_sanitize flags)
  if(NOT SPINDLE_SANITIZE)
    return()
  endif()
  set(sanitizers ${sanitizers_of_${SPINDLE_SANITIZE}})
  target_compile_options(${flags} INTERFACE -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  # Instrumented code makes GCC warn of variables that it cannot follow.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${flags} INTERFACE -Wno-maybe-uninitialized)
  endif()
  target_link_options(${flags} INTERFACE -fsanitize=${sanitizers})
endfunction()
