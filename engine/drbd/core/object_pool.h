// ObjectPool: objects of one type that are reused, each reachable by a 64-bit handle.
//
// Handles go over the wire as block_id: they name the slot and its generation, are never 0 nor
// all ones, and Find() rejects stale or invented ones. Memory grows in slabs up to the highest
// number of objects in use at a time and is kept; the limit on that number is the caller's. T
// derives from PoolObject and is default constructible; objects are not reset between uses.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/base/assert.h"

namespace umblock::drbd {

class PoolObject {
 public:
  uint64_t handle() const { return uint64_t{generation_} << 32 | (index_ + 1); }

 private:
  template <typename T>
  friend class ObjectPool;
  uint32_t index_ = 0;
  uint32_t generation_ = 1;
  bool in_use_ = false;
};

template <typename T>
class ObjectPool {
 public:
  ObjectPool() = default;
  ObjectPool(const ObjectPool&) = delete;
  ObjectPool& operator=(const ObjectPool&) = delete;
  ~ObjectPool() { UMBLOCK_ASSERT(in_use_ == 0, "every object is back before its pool goes"); }

  T* Take() {
    if (free_.empty()) Grow();
    T* object = free_.back();
    free_.pop_back();
    object->in_use_ = true;
    ++in_use_;
    return object;
  }

  void Give(T* object) {
    UMBLOCK_ASSERT(object->in_use_, "a pool object is given back once");
    object->in_use_ = false;
    // The high half of a handle stays clear of 0 and of all ones.
    object->generation_ = object->generation_ == 0xfffffffe ? 1 : object->generation_ + 1;
    --in_use_;
    free_.push_back(object);
  }

  // The object in use that `handle` names, or nullptr.
  T* Find(uint64_t handle) const {
    uint64_t index = (handle & 0xffffffff) - 1;
    if (index >= slabs_.size() * kSlab) return nullptr;
    T* object = &slabs_[index / kSlab][index % kSlab];
    return object->in_use_ && object->handle() == handle ? object : nullptr;
  }

  size_t in_use() const { return in_use_; }

 private:
  static constexpr size_t kSlab = 64;

  void Grow() {
    slabs_.push_back(std::make_unique<T[]>(kSlab));
    free_.reserve(slabs_.size() * kSlab);
    for (size_t i = kSlab; i-- > 0;) {
      T* object = &slabs_.back()[i];
      object->index_ = static_cast<uint32_t>((slabs_.size() - 1) * kSlab + i);
      free_.push_back(object);
    }
  }

  std::vector<std::unique_ptr<T[]>> slabs_;
  std::vector<T*> free_;
  size_t in_use_ = 0;
};

}  // namespace umblock::drbd
