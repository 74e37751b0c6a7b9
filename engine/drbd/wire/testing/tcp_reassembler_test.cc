#include "engine/drbd/wire/testing/tcp_reassembler.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace umblock::drbd::wire::testing {
namespace {

constexpr uint8_t kFin = 1, kSyn = 2, kRst = 4, kAck = 16;
constexpr TcpEndpoint kClient{0xc000020b, 40000};
constexpr TcpEndpoint kServer{0xc000020c, 7789};

class TcpReassemblerTest : public ::testing::Test {
 protected:
  void Send(TcpEndpoint from, TcpEndpoint to, uint32_t sequence, uint8_t flags,
            std::string_view text = "", size_t trailer = 0) {
    std::vector<std::byte> frame(14 + 20 + 20 + text.size() + trailer);
    std::byte* p = frame.data();
    StoreBe<uint16_t>(p + 12, 0x0800);
    p[14] = std::byte{0x45};
    StoreBe(p + 16, static_cast<uint16_t>(40 + text.size()));
    p[23] = std::byte{6};
    StoreBe(p + 26, from.ip);
    StoreBe(p + 30, to.ip);
    StoreBe(p + 34, from.port);
    StoreBe(p + 36, to.port);
    StoreBe(p + 38, sequence);
    p[46] = std::byte{0x50};
    p[47] = std::byte{flags};
    std::memcpy(p + 54, text.data(), text.size());
    tcp_.Add(++now_, frame);
  }
  void Connect(uint32_t client_isn, uint32_t server_isn) {
    Send(kClient, kServer, client_isn, kSyn);
    Send(kServer, kClient, server_isn, kSyn | kAck);
  }
  void FromClient(uint32_t sequence, std::string_view text) {
    Send(kClient, kServer, sequence, kAck, text);
  }
  static std::string Text(const TcpStream& stream) {
    return {reinterpret_cast<const char*>(stream.data.data()), stream.data.size()};
  }

  TcpReassembler tcp_;
  int64_t now_ = 0;
};

TEST_F(TcpReassemblerTest, BothDirectionsWithTimes) {
  Connect(100, 5000);
  FromClient(101, "hello ");
  Send(kServer, kClient, 5001, kAck, "welcome");
  FromClient(107, "world");
  const auto connections = tcp_.Take();
  ASSERT_EQ(connections.size(), 1u);
  EXPECT_EQ(connections[0].client, kClient);
  EXPECT_EQ(connections[0].server, kServer);
  EXPECT_TRUE(connections[0].established);
  EXPECT_EQ(connections[0].opened_ns, 1);
  EXPECT_EQ(connections[0].closed_ns, -1);
  EXPECT_EQ(Text(connections[0].streams[0]), "hello world");
  EXPECT_EQ(Text(connections[0].streams[1]), "welcome");
  EXPECT_EQ(connections[0].streams[0].TimeOf(0), 3);
  EXPECT_EQ(connections[0].streams[0].TimeOf(5), 3);
  EXPECT_EQ(connections[0].streams[0].TimeOf(6), 5);
  EXPECT_EQ(connections[0].streams[0].TimeOf(11), -1);
}

TEST_F(TcpReassemblerTest, ReorderingRetransmissionAndOverlap) {
  Connect(100, 5000);
  FromClient(107, "world");
  FromClient(101, "hello ");
  FromClient(101, "hello ");
  FromClient(104, "lo world!");
  const auto connections = tcp_.Take();
  EXPECT_EQ(Text(connections[0].streams[0]), "hello world!");
  EXPECT_EQ(connections[0].streams[0].TimeOf(7), 4) << "when the gap was filled";
}

TEST_F(TcpReassemblerTest, SequenceNumbersWrapAround) {
  Connect(0xfffffffc, 5000);
  FromClient(0xfffffffd, "abc");
  FromClient(0, "def");
  FromClient(3, "g");
  EXPECT_EQ(Text(tcp_.Take()[0].streams[0]), "abcdefg");
}

TEST_F(TcpReassemblerTest, GapEndsTheStream) {
  Connect(100, 5000);
  FromClient(101, "a");
  FromClient(103, "c");
  EXPECT_EQ(Text(tcp_.Take()[0].streams[0]), "a");
}

TEST_F(TcpReassemblerTest, PortIsUsedAgain) {
  Connect(100, 5000);
  FromClient(101, "first");
  Send(kClient, kServer, 106, kFin | kAck);
  Connect(90000, 7000);
  FromClient(90001, "second");
  Send(kServer, kClient, 7001, kRst);
  const auto connections = tcp_.Take();
  ASSERT_EQ(connections.size(), 2u);
  EXPECT_EQ(Text(connections[0].streams[0]), "first");
  EXPECT_EQ(connections[0].closed_ns, 4);
  EXPECT_EQ(Text(connections[1].streams[0]), "second");
  EXPECT_EQ(connections[1].closed_ns, 8);
}

TEST_F(TcpReassemblerTest, RepeatedSynIsTheSameConnection) {
  Send(kClient, kServer, 100, kSyn);
  Connect(100, 5000);
  EXPECT_EQ(tcp_.Take().size(), 1u);
}

TEST_F(TcpReassemblerTest, IgnoresWhatItDoesNotKnow) {
  FromClient(101, "without a beginning");
  const std::vector<std::byte> arp(60, std::byte{8});
  tcp_.Add(1, arp);
  tcp_.Add(1, Bytes(arp).first(3));
  tcp_.Add(1, {});
  Send(kClient, kServer, 100, kSyn);  // refused: no answer
  Send(kServer, kClient, 0, kRst | kAck);
  const auto connections = tcp_.Take();
  ASSERT_EQ(connections.size(), 1u);
  EXPECT_FALSE(connections[0].established);
  EXPECT_EQ(IpText(kClient.ip), "192.0.2.11");
}

TEST_F(TcpReassemblerTest, EthernetPaddingIsNotData) {
  Connect(100, 5000);
  Send(kClient, kServer, 101, kAck, "x", 5);
  Send(kClient, kServer, 102, kAck, "", 6);
  FromClient(102, "y");
  EXPECT_EQ(Text(tcp_.Take()[0].streams[0]), "xy");
}

}  // namespace
}  // namespace umblock::drbd::wire::testing
