#include "server/handler_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace umblock::server {

Status CheckHandlerFiles(const drbd::HandlerConfig& handlers) {
  for (int i = 0; i < drbd::kHandlers; ++i) {
    const auto handler = static_cast<drbd::Handler>(i);
    const std::string& path = handlers.path(handler);
    if (path.empty()) continue;
    struct stat file;
    const char* problem = nullptr;
    if (stat(path.c_str(), &file) != 0) {
      problem = errno == ENOENT ? "does not exist on this node" : "cannot be examined";
    } else if (!S_ISREG(file.st_mode)) {
      problem = "is no regular file";
    } else if (access(path.c_str(), X_OK) != 0) {
      problem = "is not executable for umblockd";
    }
    if (problem == nullptr) continue;
    return MakeError(ErrorCode::kInvalidArgument,
                     "handler {}: {} {}; give the absolute path of an executable",
                     drbd::HandlerName(handler), path, problem);
  }
  return Ok();
}

}  // namespace umblock::server
