// Does a path lie on one of our own exports? A daemon that used such a file as a backing device
// would wait for itself.
//
// Looks through what can be stacked between: the file system's device, loop devices, and the slaves
// of device-mapper and md devices. Touches the path, so it may block: not for a reactor's thread.
#pragma once

#include <sys/types.h>

#include <string>

namespace umblock {

// True if `path` (or, if nothing is there, its directory) is on the file system `export_device`, is
// a block device that is stacked on a file there, or is on a file system on such a device.
// `sysfs` is /sys, except in tests.
bool LiesOnDevice(const std::string& path, dev_t export_device, const std::string& sysfs = "/sys");

}  // namespace umblock
