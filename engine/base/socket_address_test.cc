#include "engine/base/socket_address.h"

#include <gtest/gtest.h>

namespace umblock {
namespace {

TEST(SocketAddressTest, ParsesAndPrintsBothFamilies) {
  for (const char* text : {"192.0.2.11:7789", "[2001:db8::1]:7789", "[fe80::1%3]:80"}) {
    auto address = SocketAddress::Parse(text);
    ASSERT_TRUE(address) << text;
    EXPECT_EQ(address->ToString(), text);
    sockaddr_storage storage;
    socklen_t length = address->ToSockaddr(&storage);
    auto back = SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&storage), length);
    ASSERT_TRUE(back);
    EXPECT_EQ(*back, *address);
  }
}

TEST(SocketAddressTest, RefusesWhatIsNoAddress) {
  for (const char* text :
       {"", "192.0.2.11", "192.0.2.11:", "192.0.2.11:70000", "host:1", "::1:5"}) {
    auto address = SocketAddress::Parse(text);
    ASSERT_FALSE(address) << text;
    EXPECT_EQ(address.error().code(), ErrorCode::kInvalidArgument);
  }
}

TEST(SocketAddressTest, OrdersByPortBeforeAddressAsDrbdDoes) {
  auto low = *SocketAddress::Parse("192.0.2.200:100");
  auto high = *SocketAddress::Parse("192.0.2.1:200");
  EXPECT_LT(low, high);
  EXPECT_TRUE(low.SameHost(low.WithPort(1)));
  EXPECT_FALSE(low.SameHost(high));
}

}  // namespace
}  // namespace umblock
