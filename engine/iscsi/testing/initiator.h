// A raw initiator for tests: blocking, one PDU at a time, able to do everything wrong.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/socket_address.h"
#include "engine/iscsi/pdu.h"

namespace umblock::iscsi {

struct Pdu {
  Bhs header;
  std::string data;
};

class Initiator {
 public:
  explicit Initiator(const SocketAddress& address);
  Initiator(const Initiator&) = delete;
  Initiator& operator=(const Initiator&) = delete;
  ~Initiator();

  using Keys = std::vector<std::pair<std::string, std::string>>;
  struct LoginResult {
    bool connected = true;  // false: closed without an answer
    uint16_t status = 0;    // class << 8 | detail
    uint16_t tsih = 0;
    std::map<std::string, std::string> keys;
  };

  // ---- raw
  void SendBytes(std::string_view bytes);
  // Pads and adds digests as they were agreed on. Fills in ExpStatSN.
  void Send(Bhs header, std::string_view data = {});
  // nullopt: the target closed, or nothing came for ten seconds.
  std::optional<Pdu> Receive();
  // True if the target closes (whatever it sends before).
  bool WaitClosed();

  // ---- login
  LoginResult LoginStep(uint8_t flags, const Keys& keys, uint16_t tsih = 0);
  // One request from the operational stage to full feature phase.
  LoginResult Login(const std::string& target, const Keys& more = {});
  LoginResult Discover(const Keys& more = {});

  // ---- commands. The CDB decides nothing here: flags and length are the caller's.
  Bhs Command(std::vector<uint8_t> cdb, uint8_t flags, uint32_t edtl, uint32_t lun = 0);
  // Sends and numbers a command; returns its task tag.
  uint32_t SendCommand(Bhs header, std::string_view immediate = {});
  struct Answer {
    bool answered = false;
    uint8_t status = 0xff;
    std::string data;
    std::string sense;
    uint8_t residual_flags = 0;
    uint32_t residual = 0;
    int data_pdus = 0;
  };
  // Collects Data-In and the status of one task; answers R2Ts out of `out`.
  Answer Finish(uint32_t task_tag, std::string_view out = {});
  Answer Read(uint32_t lba, uint16_t blocks, uint32_t block_size = 512, uint32_t lun = 0);
  // As much immediate data as allowed, the rest by R2T.
  Answer Write(uint32_t lba, std::string_view data, uint32_t block_size = 512, uint32_t lun = 0);
  // Clears unit attentions.
  void MakeReady(uint32_t lun = 0);

  uint32_t cmd_sn = 100;
  uint32_t max_cmd_sn = 0, exp_cmd_sn = 0;
  uint32_t exp_stat_sn = 0;
  std::string name = "iqn.2026-01.test:initiator";
  uint64_t isid = 0x00023d000001;
  bool header_digest = false, data_digest = false;
  bool immediate_data = true;
  uint32_t first_burst = 65536;
  uint32_t max_data = 8192;  // what the target takes in one PDU
  uint32_t next_tag = 1;

 private:
  bool ReceiveAll(void* to, size_t length);

  int fd_ = -1;
};

}  // namespace umblock::iscsi
