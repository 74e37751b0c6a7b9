#include "engine/block/device_base.h"

#include <algorithm>

#include "engine/base/assert.h"

namespace umblock {

uint64_t IovLength(std::span<const iovec> iov) {
  uint64_t total = 0;
  for (const iovec& part : iov) total += part.iov_len;
  return total;
}

DeviceBase::~DeviceBase() {
  UMBLOCK_ASSERT(openers_.empty(), "a device is closed by everybody before it goes");
  UMBLOCK_ASSERT(observers_.empty(), "a device has no observer left when it goes");
}

Result<OpenerId> DeviceBase::Open(Opener opener) {
  if (access() != Access::kReadWrite) {
    return MakeError(ErrorCode::kFailedPrecondition, "{} cannot be opened: {}", name_,
                     access_reason());
  }
  OpenerId id = next_id_++;
  openers_.emplace(id, std::move(opener));
  OnOpenersChanged();
  return id;
}

void DeviceBase::Close(OpenerId id) {
  size_t erased = openers_.erase(id);
  UMBLOCK_ASSERT(erased == 1, "a device is closed once by whoever opened it");
  OnOpenersChanged();
}

std::vector<Opener> DeviceBase::openers() const {
  std::vector<Opener> result;
  result.reserve(openers_.size());
  for (const auto& [id, opener] : openers_) result.push_back(opener);
  return result;
}

std::string DeviceBase::DescribeOpeners() const {
  std::string text;
  for (const auto& [id, opener] : openers_) {
    if (!text.empty()) text += ", ";
    text += opener.description;
  }
  return text;
}

bool DeviceBase::open_for_write() const {
  return std::any_of(openers_.begin(), openers_.end(),
                     [](const auto& entry) { return entry.second.write; });
}

void DeviceBase::AddObserver(BlockDeviceObserver* observer) { observers_.push_back(observer); }

void DeviceBase::RemoveObserver(BlockDeviceObserver* observer) { std::erase(observers_, observer); }

void DeviceBase::NotifyObservers() {
  std::vector<BlockDeviceObserver*> observers = observers_;
  for (BlockDeviceObserver* observer : observers) {
    if (std::find(observers_.begin(), observers_.end(), observer) != observers_.end()) {
      observer->OnDeviceChanged();
    }
  }
}

}  // namespace umblock
