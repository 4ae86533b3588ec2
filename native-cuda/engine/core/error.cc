#include "core/error.h"

namespace spindle {

const char* code_name(Code code) {
  switch (code) {
    case Code::InvalidArgument:
      return "INVALID_ARGUMENT";
    case Code::NotFound:
      return "NOT_FOUND";
    case Code::DataLoss:
      return "DATA_LOSS";
    case Code::ResourceExhausted:
      return "RESOURCE_EXHAUSTED";
    case Code::Cancelled:
      return "CANCELLED";
    case Code::Diverged:
      return "DIVERGED";
    case Code::Unavailable:
      return "UNAVAILABLE";
    case Code::Internal:
      return "INTERNAL";
  }
  return "INTERNAL";
}

}  // namespace spindle
