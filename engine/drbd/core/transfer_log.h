// TransferLog: the writes of a resource in the order of their registration, over all volumes, until
// each is done for every peer (drbd-io-path.md A.5, A.11, B).
//
// Holds the resource's position in its change stream (dagtag) and the current epoch. Upholds INV-12
// (whoever completes a write closes its epoch), INV-5 (a request stays until barrier-acked) and the
// done chain: requests leave strictly in order. Threading: one reactor.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstdint>

#include "engine/drbd/core/request.h"

namespace umblock::drbd {

class TransferLog {
 public:
  using List = boost::intrusive::list<
      Request, boost::intrusive::member_hook<Request, boost::intrusive::list_member_hook<>,
                                             &Request::log_hook>>;

  // `dagtag`: where the change stream goes on (the largest position found in the metadata).
  void RaiseDagtag(uint64_t dagtag) {
    if (dagtag > dagtag_) dagtag_ = dagtag;
  }
  uint64_t dagtag() const { return dagtag_; }

  // Gives the request its dagtag and epoch and appends it.
  void Append(Request* request);
  // Starts a new epoch if the current one has a write. True if it did.
  bool CloseEpoch();
  uint32_t epoch() const { return epoch_; }
  uint32_t epoch_writes() const { return epoch_writes_; }

  // The oldest request, if it is done for everybody; it leaves the log.
  Request* PopDone();
  // Every write of an epoch before `epoch` has left: nothing older is unstable anywhere.
  bool StableBefore(uint32_t epoch) const;

  List& requests() { return requests_; }
  // True while a write of this volume is in the log.
  bool Holds(const Volume* volume) const;
  bool empty() const { return requests_.empty(); }
  size_t size() const { return size_; }

 private:
  List requests_;
  size_t size_ = 0;
  uint64_t dagtag_ = 0;
  uint32_t epoch_ = 0;
  uint32_t epoch_writes_ = 0;
};

}  // namespace umblock::drbd
