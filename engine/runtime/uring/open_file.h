// UringReactor::OpenFile: opens, locks, makes and examines a file, on a thread that may block.
#pragma once

#include <memory>

#include "engine/runtime/file.h"
#include "engine/runtime/uring/socket_util.h"

namespace umblock {

class UringReactor;

Task<Result<std::unique_ptr<File>>> OpenUringFile(UringReactor& reactor, OpenFileRequest request);

struct OpenedFile {
  OwnedFd fd;
  FileInfo info;
};

// The blocking part. Errors name the path and the way out.
Result<OpenedFile> OpenAndExamine(const OpenFileRequest& request);

}  // namespace umblock
