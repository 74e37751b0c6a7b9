#include "engine/fuse/mount_check.h"

#include <dirent.h>
#include <fmt/core.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cstdio>
#include <fstream>
#include <vector>

namespace umblock {
namespace {

constexpr int kMaxDepth = 16;  // stacks are a few high; a circle cannot be built

std::string FirstLine(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::vector<dev_t> Slaves(const std::string& device_directory) {
  std::vector<dev_t> result;
  DIR* directory = opendir((device_directory + "/slaves").c_str());
  if (directory == nullptr) return result;
  while (const dirent* entry = readdir(directory)) {
    if (entry->d_name[0] == '.') continue;
    std::string numbers = FirstLine(device_directory + "/slaves/" + entry->d_name + "/dev");
    unsigned major_number = 0;
    unsigned minor_number = 0;
    if (std::sscanf(numbers.c_str(), "%u:%u", &major_number, &minor_number) == 2) {  // NOLINT
      result.push_back(makedev(major_number, minor_number));
    }
  }
  closedir(directory);
  return result;
}

class Search {
 public:
  Search(dev_t target, const std::string& sysfs) : target_(target), sysfs_(sysfs) {}

  bool Path(const std::string& path, int depth) {  // NOLINT(misc-no-recursion)
    struct stat info;
    if (stat(path.c_str(), &info) != 0) return false;
    return Device(S_ISBLK(info.st_mode) ? info.st_rdev : info.st_dev, depth);
  }

 private:
  bool Device(dev_t device, int depth) {  // NOLINT(misc-no-recursion)
    if (device == target_) return true;
    if (depth == kMaxDepth) return false;
    std::string directory = fmt::format("{}/dev/block/{}:{}", sysfs_, major(device), minor(device));
    if (!FirstLine(directory + "/partition").empty()) directory += "/..";
    std::string backing = FirstLine(directory + "/loop/backing_file");
    if (!backing.empty() && Path(backing, depth + 1)) return true;
    for (dev_t slave : Slaves(directory)) {
      if (Device(slave, depth + 1)) return true;
    }
    return false;
  }

  dev_t target_;
  const std::string& sysfs_;
};

}  // namespace

bool LiesOnDevice(const std::string& path, dev_t export_device, const std::string& sysfs) {
  Search search(export_device, sysfs);
  struct stat info;
  if (stat(path.c_str(), &info) == 0) return search.Path(path, 0);
  size_t slash = path.rfind('/');
  if (slash == std::string::npos) return search.Path(".", 0);
  return search.Path(slash == 0 ? "/" : path.substr(0, slash), 0);
}

}  // namespace umblock
