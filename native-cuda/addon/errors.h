// Between C++ exceptions and JavaScript errors with a `code`.
#pragma once
#include <napi.h>

#include <exception>
#include <new>
#include <string>

#include "core/error.h"

namespace spindle::addon {

struct Failure {
  std::string code, message;
};

// Of the exception being handled.
inline Failure current_failure() {
  try {
    throw;
  } catch (const Error& e) {
    return {code_name(e.code()), e.what()};
  } catch (const std::bad_alloc&) {
    return {code_name(Code::ResourceExhausted), "out of memory"};
  } catch (const std::exception& e) {
    return {code_name(Code::Internal), e.what()};
  } catch (...) {
    return {code_name(Code::Internal), "an unknown exception"};
  }
}

inline Napi::Error to_js_error(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.message);
  error.Value().Set("code", Napi::String::New(env, failure.code));
  return error;
}

// Every exported function goes through here: what it throws becomes a JavaScript error.
template <Napi::Value (*Function)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return Function(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js_error(info.Env(), current_failure());
  }
}

}  // namespace spindle::addon
