#include "engine/drbd/core/transfer_log.h"

#include <algorithm>

namespace umblock::drbd {

void TransferLog::Append(Request* request) {
  dagtag_ += request->sectors();
  request->dagtag = dagtag_;
  request->epoch = epoch_;
  ++epoch_writes_;
  ++size_;
  requests_.push_back(*request);
}

bool TransferLog::CloseEpoch() {
  if (epoch_writes_ == 0) return false;
  epoch_writes_ = 0;
  ++epoch_;
  return true;
}

Request* TransferLog::PopDone() {
  if (requests_.empty()) return nullptr;
  Request& front = requests_.front();
  if (!front.completed || !AllDone(front.local_leg, front.states())) return nullptr;
  requests_.pop_front();
  --size_;
  return &front;
}

bool TransferLog::Holds(const Volume* volume) const {
  return std::any_of(requests_.begin(), requests_.end(),
                     [volume](const Request& request) { return request.volume == volume; });
}

bool TransferLog::StableBefore(uint32_t epoch) const {
  if (requests_.empty()) return true;
  return static_cast<int32_t>(requests_.front().epoch - epoch) >= 0;
}

}  // namespace umblock::drbd
