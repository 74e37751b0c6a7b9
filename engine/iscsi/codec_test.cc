// PDUs, digests, text keys, batches: the pure parts of the iSCSI target.
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "engine/iscsi/digest.h"
#include "engine/iscsi/pdu.h"
#include "engine/iscsi/send_batch.h"
#include "engine/iscsi/text.h"

namespace umblock::iscsi {
namespace {

using namespace std::string_view_literals;

std::string Joined(std::span<const iovec> iov) {
  std::string bytes;
  for (const iovec& part : iov) bytes.append(static_cast<char*>(part.iov_base), part.iov_len);
  return bytes;
}

TEST(Bhs, FieldsAreWhereTheRfcPutsThem) {
  Bhs header(Op::kScsiCommand, 0xc1);
  header.Put8(0, 0x41).PutDataLength(0x123456).Put<uint64_t>(8, uint64_t{5} << 48);
  header.Put<uint32_t>(16, 0xaabbccdd).Put<uint32_t>(24, 7).Put<uint32_t>(28, 8).Put8(4, 3);
  EXPECT_EQ(header.op(), Op::kScsiCommand);
  EXPECT_TRUE(header.immediate());
  EXPECT_TRUE(header.final());
  EXPECT_EQ(header.ahs_length(), 12u);
  EXPECT_EQ(header.data_length(), 0x123456u);
  EXPECT_EQ(header.padded_data_length(), 0x123458u);
  EXPECT_EQ(header.task_tag(), 0xaabbccddu);
  EXPECT_EQ(header.cmd_sn(), 7u);
  EXPECT_EQ(header.exp_stat_sn(), 8u);
  EXPECT_EQ(Bhs(header.bytes()).lun(), uint64_t{5} << 48);
}

TEST(Bhs, RequestsThatCannotBeRight) {
  EXPECT_FALSE(CheckRequest(Bhs(Op::kScsiCommand, 0), 8192));
  EXPECT_EQ(CheckRequest(Bhs(Op::kScsiCommand, 0).PutDataLength(8193), 8192),
            RejectReason::kProtocolError);
  EXPECT_EQ(CheckRequest(Bhs(Op::kNopOut, kFinal).Put8(4, 1), 8192), RejectReason::kProtocolError);
  EXPECT_FALSE(CheckRequest(Bhs(Op::kScsiCommand, kFinal).Put8(4, 1), 8192));
  EXPECT_EQ(CheckRequest(Bhs(Op::kLogout, 0), 8192), RejectReason::kProtocolError);
  EXPECT_EQ(CheckRequest(Bhs(Op::kText, kFinal | kContinue), 8192), RejectReason::kProtocolError);
  EXPECT_EQ(CheckRequest(Bhs(Op::kSnack, kFinal), 8192), RejectReason::kSnackReject);
  EXPECT_EQ(CheckRequest(Bhs(Op::kLogin, 0), 8192), RejectReason::kProtocolError);
  EXPECT_EQ(CheckRequest(Bhs(Op::kDataIn, kFinal), 8192), RejectReason::kCommandNotSupported);
  EXPECT_EQ(CheckRequest(Bhs(static_cast<Op>(0x1c), 0), 8192), RejectReason::kCommandNotSupported);
}

TEST(SerialNumbers, WrapAround) {
  EXPECT_TRUE(SerialLess(1, 2));
  EXPECT_FALSE(SerialLess(2, 2));
  EXPECT_TRUE(SerialLess(0xffffffff, 0));
  EXPECT_FALSE(SerialLess(0, 0xffffffff));
}

// The examples of RFC 7143 appendix A.4, read as little-endian numbers.
TEST(Digest, MatchesTheRfc) {
  std::byte bytes[48]{};
  EXPECT_EQ(Digest(Bytes(bytes, 32)), 0x8a9136aau);
  std::memset(bytes, 0xff, 32);
  EXPECT_EQ(Digest(Bytes(bytes, 32)), 0x62a8ab43u);
  for (size_t i = 0; i < 32; ++i) bytes[i] = std::byte(i);
  EXPECT_EQ(Digest(Bytes(bytes, 32)), 0x46dd794eu);
  for (size_t i = 0; i < 32; ++i) bytes[i] = std::byte(31 - i);
  EXPECT_EQ(Digest(Bytes(bytes, 32)), 0x113fdb5cu);
}

TEST(Text, CutsPairs) {
  auto pairs = ParseText("A=1\0Bc=x=y\0D=\0\0\0"sv);
  ASSERT_TRUE(pairs);
  ASSERT_EQ(pairs->size(), 3u);
  EXPECT_EQ((*pairs)[1].key, "Bc");
  EXPECT_EQ((*pairs)[1].value, "x=y");
  EXPECT_EQ(FindKey(*pairs, "D"), "");
  EXPECT_EQ(FindKey(*pairs, "E"), std::nullopt);
  EXPECT_TRUE(ParseText({}));
}

TEST(Text, RefusesWhatIsNoText) {
  EXPECT_FALSE(ParseText("A=1"));        // no end
  EXPECT_FALSE(ParseText("A\0"sv));      // no value
  EXPECT_FALSE(ParseText("=1\0"sv));     // no key
  EXPECT_FALSE(ParseText("A b=1\0"sv));  // no key
  EXPECT_FALSE(ParseText(std::string(64, 'k') + "=1\0"));
  EXPECT_FALSE(ParseText("K=" + std::string(kMaxValue + 1, 'v') + '\0'));
  std::string many;
  for (size_t i = 0; i <= kMaxKeys; ++i) AppendText("K" + std::to_string(i), "1", &many);
  EXPECT_FALSE(ParseText(many));
}

TEST(Text, Numbers) {
  EXPECT_EQ(ParseNumber("0"), 0u);
  EXPECT_EQ(ParseNumber("262144"), 262144u);
  EXPECT_EQ(ParseNumber("0x10"), 16u);
  EXPECT_EQ(ParseNumber("4294967295"), 4294967295u);
  for (std::string_view bad : {"", "x", "-1", "1 ", "0x", "4294967296", "1.5"}) {
    EXPECT_EQ(ParseNumber(bad), std::nullopt) << bad;
  }
}

TEST(Text, Binary) {
  EXPECT_EQ(ParseBinary("0x0aFF", 16), "\x0a\xff");
  EXPECT_EQ(ParseBinary("0xabc", 16), "\x0a\xbc");
  EXPECT_EQ(ParseBinary("0bSGVsbG8=", 16), "Hello");
  EXPECT_EQ(FormatHex("\x01\xfe"), "0x01fe");
  for (std::string_view bad : {"0x", "0xzz", "12", "0b!", "0bA", "0x001122"}) {
    EXPECT_EQ(ParseBinary(bad, 2), std::nullopt) << bad;
  }
}

TEST(Text, Names) {
  EXPECT_TRUE(ValidName("iqn.2026-01.org.example:disk-1"));
  EXPECT_TRUE(ValidName("eui.02004567A425678D"));
  EXPECT_TRUE(ValidName("naa.52004567BA64678D"));
  EXPECT_EQ(NormalizeName("IQN.A:B"), "iqn.a:b");
  EXPECT_FALSE(ValidName("disk"));
  EXPECT_FALSE(ValidName("iqn.with space"));
  EXPECT_FALSE(ValidName("iqn." + std::string(220, 'x')));
  EXPECT_TRUE(ListNames("CHAP,None", "None"));
  EXPECT_FALSE(ListNames("CHAPX,Nones", "None"));
}

TEST(SendBatch, LaysOutPaddingAndDigests) {
  SendBatch batch;
  Bhs header(Op::kNopIn, kFinal);
  batch.Add(header, std::as_bytes(std::span("abcde"sv)), true, true);
  std::string bytes = Joined(batch.iov());
  ASSERT_EQ(bytes.size(), 48u + 4 + 5 + 3 + 4);
  EXPECT_EQ(batch.bytes(), bytes.size());
  EXPECT_EQ(Bhs(std::as_bytes(std::span(bytes))).data_length(), 5u);
  EXPECT_EQ(bytes.substr(52, 8), "abcde\0\0\0"sv);
  EXPECT_EQ(LoadLe<uint32_t>(bytes.data() + 60), Digest(std::as_bytes(std::span("abcde\0\0\0"sv))));
}

TEST(SendBatch, NamesLargeDataAndMergesTheRest) {
  SendBatch batch;
  std::string large(8192, 'x');
  batch.Add(Bhs(Op::kScsiResponse, kFinal), {}, false, false);
  batch.Add(Bhs(Op::kScsiResponse, kFinal), {}, false, false);
  EXPECT_EQ(batch.iov().size(), 1u);
  batch.Add(Bhs(Op::kDataIn, kFinal), std::as_bytes(std::span(large)), false, false);
  batch.Add(Bhs(Op::kScsiResponse, kFinal), {}, false, false);
  EXPECT_EQ(batch.iov().size(), 3u);
  EXPECT_EQ(batch.iov()[1].iov_base, large.data());
  EXPECT_EQ(Joined(batch.iov()).size(), 4 * 48 + large.size());
  while (!batch.full()) batch.Add(Bhs(Op::kNopIn, kFinal), {}, true, true);
  EXPECT_EQ(batch.pdus(), SendBatch::kMaxPdus);
  batch.Clear();
  EXPECT_TRUE(batch.empty());
  EXPECT_TRUE(batch.iov().empty());
}

}  // namespace
}  // namespace umblock::iscsi
