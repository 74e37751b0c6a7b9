// WriteFileAtomically: replaces a small file so that a crash at any moment leaves the old contents
// or the new ones, and so that a call that returned Ok survives a power cut.
//
// Steps: temporary file beside it, write, fsync, hard link of the old file as PATH.previous,
// rename, fsync of the directory. A failure before the rename changes nothing; a failure after it
// puts the old file back. Blocks: not for a reactor's thread.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <string_view>

#include "engine/base/error.h"

namespace umblock::server {

enum class FileStep { kCreate, kWrite, kSync, kKeep, kRename, kSyncDirectory };
inline constexpr int kFileSteps = 6;

// What a test lets happen before a step: nothing, an I/O error, or the end of the process (the
// function returns at once and cleans up nothing).
enum class FileFault { kNone, kError, kCrash };
using FileFaultHook = std::function<FileFault(const std::string& path, FileStep step)>;

struct AtomicFileOptions {
  mode_t mode = 0640;
  bool keep_previous = false;
  const FileFaultHook* fault = nullptr;
};

Status WriteFileAtomically(const std::string& path, std::string_view contents,
                           const AtomicFileOptions& options);

// At most `limit` bytes; kNotFound if there is no such file.
Result<std::string> ReadSmallFile(const std::string& path, size_t limit);

}  // namespace umblock::server
