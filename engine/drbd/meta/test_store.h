// Small steps with a MetaStore on a test disk.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <memory>
#include <utility>

#include "engine/drbd/meta/meta_store.h"
#include "engine/drbd/meta/test_disk.h"

namespace umblock::drbd::meta::testing {

inline constexpr uint64_t kMiB = 1 << 20;

inline Geometry CreateOn(Machine& machine, MetaLayoutOptions layout = {}) {
  auto geometry = machine.Await(MetaStore::Create(machine.disk, {layout, 0, false}));
  UMBLOCK_ASSERT(geometry.has_value(), geometry.error().message().c_str());
  return *geometry;
}

inline Result<std::unique_ptr<MetaStore>> TryOpen(Machine& machine, MetaOpenOptions options,
                                                  MetaOpenReport* report) {
  return machine.Await(MetaStore::Open(machine.disk, options, report));
}

inline std::unique_ptr<MetaStore> OpenOn(Machine& machine, MetaOpenReport* report = nullptr,
                                         MetaOpenOptions options = {}) {
  MetaOpenReport unused;
  auto store = TryOpen(machine, options, report == nullptr ? &unused : report);
  UMBLOCK_ASSERT(store.has_value(), store.error().message().c_str());
  return std::move(*store);
}

// Gives fresh metadata a size and a data generation.
inline void Initialise(Machine& machine, MetaStore& store, uint64_t sectors) {
  store.superblock().effective_sectors = sectors;
  store.superblock().current_uuid = 0x1234567890;
  store.superblock().node_id = 0;
  store.superblock().peers[1].bitmap_index = 0;
  ASSERT_TRUE(store.bitmap().Resize(sectors * 512, false));
  ASSERT_TRUE(machine.Await(store.WriteDirtyPages()));
  ASSERT_TRUE(machine.Await(store.WriteSuperblock()));
}

inline AlBatch Batch(uint32_t number, std::initializer_list<AlUpdate> updates,
                     std::initializer_list<uint32_t> evicted = {}) {
  AlBatch batch;
  batch.transaction.number = number;
  batch.transaction.context_size = 1237;
  batch.transaction.context_start = 919;
  for (const AlUpdate& u : updates) batch.transaction.updates[batch.transaction.update_count++] = u;
  for (const uint32_t e : evicted) batch.evicted_extents[batch.evicted_count++] = e;
  return batch;
}

// Metadata of a crashed node with the three transactions of the format's worked example.
inline void CrashedWithThreeExtents(Machine& machine, uint32_t flags, uint32_t max_peers = 2) {
  CreateOn(machine, {Placement::kInternal, max_peers});
  auto store = OpenOn(machine);
  Initialise(machine, *store, 200000);
  store->superblock().flags |= flags;
  ASSERT_TRUE(machine.Await(store->WriteSuperblock()));
  ASSERT_TRUE(machine.Await(store->WriteTransaction(Batch(0, {{0, 0}, {1, 5}}))));
  ASSERT_TRUE(machine.Await(store->WriteTransaction(Batch(1, {{2, 23}}))));
  ASSERT_TRUE(machine.Await(store->WriteTransaction(Batch(2, {{0, 24}}, {0}))));
}

}  // namespace umblock::drbd::meta::testing
