// RangeLock: keeps a read-modify-write of a block apart from every other write to that block.
//
// Holders that only overwrite whole blocks share; one that first reads a block is exclusive. Two
// that overlap, at least one of them exclusive, take turns in the order of their coming, and nobody
// overtakes a waiter that it overlaps. While nobody is exclusive, taking and releasing cost a few
// pointer writes. Threading: one reactor.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstdint>

namespace umblock {

class RangeLock {
 public:
  struct Holder : boost::intrusive::list_base_hook<> {
    // Called inside another holder's Release, after Acquire gave false.
    using Granted = void (*)(Holder* self) noexcept;
    explicit Holder(Granted fn) : granted(fn) {}
    Granted granted;
    uint64_t begin = 0;  // bytes
    uint64_t end = 0;
    bool exclusive = false;
  };

  // True: held from now on. False: waits.
  bool Acquire(Holder* holder);
  void Release(Holder* holder);
  bool empty() const { return held_.empty() && waiting_.empty(); }

 private:
  using List = boost::intrusive::list<Holder>;

  static bool Conflict(const Holder& a, const Holder& b) {
    return (a.exclusive || b.exclusive) && a.begin < b.end && b.begin < a.end;
  }
  // `before`: those in `waiting_` that stand before it count too.
  bool MustWait(const Holder& holder, List::iterator before);

  List held_;
  List waiting_;
  uint32_t exclusive_ = 0;  // in either list
};

}  // namespace umblock
