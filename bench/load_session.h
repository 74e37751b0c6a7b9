// LoadSession: an initiator that does nothing but load (RFC 7143). It writes and reads PDUs in
// batches on one blocking-free socket, so that it is not what is measured: libiscsi's tools top out
// near 80 000 requests a second.
//
// Commands of a turn leave in one sendmsg, write data from one shared pattern; what arrives is
// received in large pieces and only looked at where a header is.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/workload.h"
#include "engine/base/error.h"
#include "engine/iscsi/pdu.h"

namespace umblock::bench {

struct LunAddress {
  std::string host, port, target;
  uint32_t lun = 0;
  // iscsi://host:port/iqn/lun
  static Result<LunAddress> Parse(const std::string& url);
};

class LoadSession {
 public:
  LoadSession(const Workload& workload, bool busy_poll);
  ~LoadSession();

  Status Connect(const LunAddress& address);
  Status Run(Measurement* measurement);
  uint64_t device_bytes() const { return blocks_ * block_size_; }

 private:
  struct Slot {
    uint64_t began = 0;
    uint64_t offset = 0;  // blocks
    bool read = false;
  };

  Status Login(const LunAddress& address);
  Status ReadCapacity();
  Result<iscsi::Bhs> Exchange(iscsi::Bhs header, const std::string& data, std::string* answer);
  bool SendAll(const void* bytes, size_t length);
  bool ReceiveAll(void* bytes, size_t length);

  void Begin(uint32_t slot, uint64_t now);
  void QueueHeader(const iscsi::Bhs& header, size_t data);
  Status Flush();
  Status Take(uint64_t now_limit);
  Status HandlePdu(const iscsi::Bhs& header);
  void SendRequested(const iscsi::Bhs& r2t);
  Status Finish(const iscsi::Bhs& header, bool failed);

  Workload workload_;
  bool busy_poll_;
  int fd_ = -1;
  uint64_t lun_ = 0;
  uint64_t blocks_ = 0;
  uint32_t block_size_ = 512;
  uint32_t cmd_sn_ = 1, exp_stat_sn_ = 0, max_cmd_sn_ = 0;
  uint32_t target_max_data_ = 8192, first_burst_ = 65536;
  bool immediate_ = true;

  std::vector<Slot> slots_;
  std::vector<uint32_t> ready_;  // slots without a command
  std::vector<std::byte> pattern_;
  std::vector<std::byte> headers_;
  std::vector<iovec> out_;
  size_t out_first_ = 0;
  std::vector<std::byte> in_;
  size_t in_begin_ = 0, in_end_ = 0;
  uint64_t skip_ = 0;  // payload still to be passed over
  std::unique_ptr<Offsets> offsets_;
  Measurement* measurement_ = nullptr;
  uint64_t measure_from_ = 0;
  bool ending_ = false;
};

}  // namespace umblock::bench
