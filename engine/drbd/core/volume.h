// Volume: a replicated block device (drbd-io-path.md A, D, E).
//
// Fronts submit BlockIos. Reads go to the own disk where it is current, else to a peer. Writes are
// Requests: admitted, given their range and extents, registered in the resource's transfer log,
// sent to the disk and to the peers, completed when every leg is satisfied. Flushes wait for the
// own disk and, with strict_flush, for every epoch before them to be stable on the peers (INV-10).
//
// What must wait (suspended I/O, a state that settles, a new data generation owed, too many
// requests) waits in the admission queue in order; nothing there is failed. Completions are
// delivered in a batch later in the same turn, never from inside Submit. Threading: the resource's
// reactor.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "engine/block/device_base.h"
#include "engine/block/layers/deadline_device.h"
#include "engine/drbd/core/disk.h"
#include "engine/drbd/core/io_ranges.h"
#include "engine/drbd/core/object_pool.h"
#include "engine/drbd/core/peer_device.h"
#include "engine/drbd/core/request.h"
#include "engine/drbd/resource.h"
#include "engine/drbd/status.h"

namespace umblock::drbd {

class ResourceImpl;

class Volume final : public DeviceBase, private DiskOwner, private DeadlineDevice::Owner {
 public:
  Volume(ResourceImpl& resource, VolumeConfig config);
  ~Volume() override;

  int number() const { return config_.number; }
  const VolumeConfig& config() const { return config_; }
  ResourceImpl& resource() { return resource_; }
  VolumeState& state();
  const VolumeState& state() const;

  // --- BlockDevice ---
  void Submit(BlockIo* io) noexcept override;
  const BlockGeometry& geometry() const override { return geometry_; }
  Access access() const override;
  std::string access_reason() const override;

  // --- disk ---
  Disk* disk() { return disk_.get(); }
  const Disk* disk() const { return disk_.get(); }
  uint64_t disk_generation() const { return disk_generation_; }
  const std::string& backend_name() const { return backend_name_; }  // empty: it has none
  Task<Status> OpenDisk(AttachRequest request);
  // The I/O of this volume must have drained. `clean` as in Disk::Close.
  Task<void> CloseDisk(bool clean);
  // Waits until no I/O to the backing device is in flight; new I/O is held back meanwhile if
  // `quiesce`.
  Task<void> DrainLocal();
  void Quiesce(bool on);
  void NoteBackingIo(uint64_t read_bytes, uint64_t written_bytes);
  // Of resyncs and verifies: not what applications, here or at a peer, want of the disk.
  void NoteResyncIo(uint64_t read_bytes, uint64_t written_bytes);
  uint64_t application_bytes() const { return application_bytes_; }
  void CountLower(int64_t delta);
  // A peer write or resync block failed on the own disk.
  void OnLocalError(IoOp op, int error);
  void StoreMetaFlags();  // disk state, roles → superblock flags; written soon
  Task<Status> StoreMetaFlagsNow();
  // Found, or become, a Primary that did not end cleanly, or whose disk was lost in the middle of
  // its writes and came back while no peer was there; advertised to peers until both disks are
  // UpToDate (drbd-metadata-resync.md 3.5). Until then no peer is told that this node has survived
  // (RECONNECT), since its data has not: a link that breaks before the resync has begun would else
  // make both equal.
  bool crashed_primary = false;
  // A Primary without its disk had no peer with good data for a while: nobody knows which of the
  // writes that were under way then reached which disk. Until both disks are UpToDate.
  bool lost_sight = false;
  std::string disk_reason;    // why the disk is not UpToDate, for status
  uint64_t exposed_uuid = 0;  // generation that this node has shown to its users
  // While a generation that a diskless Primary has begun is not known to be at a peer: the one
  // before, which a peer that never heard of it has. 0: it is known.
  uint64_t exposed_before = 0;
  // The last generation whose superblock could not be written. It may be on the disk all the same;
  // nobody was told of it and nothing acknowledged under it, so a disk that comes back with it is
  // given the UUIDs from before.
  struct UnstoredGeneration {
    uint64_t current;
    UuidSet before;
  };
  std::optional<UnstoredGeneration> unstored;
  bool making_uuid = false;
  uint64_t reasons_for_uuid = 0;  // how often a new generation has become due
  // It is owed because acknowledged writes may be missing somewhere, not for a promotion alone:
  // that waits for the first I/O (drbd-metadata-resync.md 4.3).
  bool owes_for_writes = false;
  bool attach_unwanted = false;   // a forced detach came while it attaches: that ends, soon
  int generations_in_flight = 0;  // superblock writes that a new generation waits for

  // --- peers ---
  PeerDevice* peer(int node);
  void AddPeer(Connection& connection);
  void RemovePeer(int node);
  std::map<int, std::unique_ptr<PeerDevice>>& peers() { return peers_; }
  // Nodes whose bitmap slots exist, for UUID rules.
  UuidPeers uuid_peers() const;

  // --- size ---
  uint64_t size_sectors() const { return geometry_.size / 512; }
  void SetSize(uint64_t sectors);
  // What the operator, or a peer's, has asked for, sectors; 0: nothing. A size below that which the
  // disk has been agreed on stands for that one: it was resized since.
  uint64_t wanted_sectors() const;
  void set_wanted_sectors(uint64_t sectors) { config_.size = sectors * 512; }
  // A new size that all nodes have agreed on; durable when it ends. `sync_owed` as
  // Disk::ChangeSize.
  Task<Status> AdoptSize(uint64_t sectors, bool sync_owed);
  // Steps of a resize that are under way here: the peers' data waits.
  int resizing = 0;

  // --- bitmap ---
  // Sectors [first, end), rounded outward when set and inward when cleared. Returns whether a bit
  // changed.
  bool SetOutOfSync(uint64_t first, uint64_t end, meta::SlotMask slots);
  bool ClearOutOfSync(uint64_t first, uint64_t end, meta::SlotMask slots);
  meta::SlotMask SlotsExcept(int node) const;
  meta::SlotMask SlotMaskOf(NodeMask nodes) const;

  // --- requests ---
  RangeTable& ranges() { return ranges_; }
  Request* FindRequest(uint64_t block_id) { return requests_.Find(block_id); }
  // Something that held I/O back may be over.
  void Readmit();
  bool WillBeOverwritten(const Request& request);
  void CheckCompletion(Request* request);
  // A peer that acknowledged this completed write is lost, and had not confirmed it as stable.
  void NoteLostCopy(const Request& request);
  // The request has left the transfer log: bits, extents, late out-of-sync notes.
  void Retire(Request* request);
  // The read of the front that a peer's answer belongs to; nullptr if it answers none, or one that
  // is being answered already.
  const BlockIo* FindRemoteRead(uint64_t block_id, int node, uint64_t sector);
  // Its data is coming: no other answer to it counts until FinishRemoteRead.
  void BeginRemoteRead(uint64_t block_id) { reads_.Find(block_id)->receiving = true; }
  void FinishRemoteRead(uint64_t block_id, bool ok);
  void FailReadsOf(int node);
  void CheckFlushes();
  bool io_idle() const { return upper_pending_ == 0; }
  Task<void> WaitIdle();
  void FailHeldIo();
  // The end: what waits and what comes is answered with ENODEV. Returns when all is answered.
  Task<void> Shut();

  Status UpdateDiskOptions(const DiskOptions& options);
  // What a disk without flushes may cost.
  void WarnOfCaches() const;
  // The unit in which a resync from a peer asks for blocks that may be zeroes, bytes; 0: it does
  // not.
  uint64_t thin_granularity() const;
  VolumeStatus status() const;
  std::string WhyNotUpToDate() const;
  VolumeCounters counters() const;
  void NotifyChanged() { NotifyObservers(); }
  void RefreshOpeners();
  void UpdateGeometry();

 private:
  struct BackingWatch final : BlockDeviceObserver {
    explicit BackingWatch(Volume* v) : volume(v) {}
    void OnDeviceChanged() override;
    Volume* volume;
  };
  struct ReadRequest final : PoolObject {
    ReadRequest() : local(nullptr) {}
    Volume* volume = nullptr;
    BlockIo* upper = nullptr;
    BlockIo local;
    int node = -1;  // the peer that serves it; -1: the own disk
    bool done = false;
    bool tried_local = false;
    bool receiving = false;  // the reply is coming into upper's memory
    NodeMask tried = 0;
    Time submitted_at{};
  };
  struct FlushRequest final : PoolObject {
    FlushRequest() : local(nullptr) {}
    Volume* volume = nullptr;
    BlockIo* upper = nullptr;
    BlockIo local;
    bool local_done = false;
    bool local_ok = false;
    bool peers_done = false;
    bool lost_some = false;  // a write that it covers is on no copy any more
    uint32_t epoch = 0;
    Time submitted_at{};
  };

  void OnMetadataFailed(const Error& error) override;
  void OnActivityLogStarving() override;
  void OnDeadline(IoOp op, Duration age) override;
  void OnOpenersChanged() override;
  void OnBackingFollowed() override;
  void SetExposedSize(uint64_t sectors);

  // disk-timeout (volume_deadline.cc).
  Task<Status> OpenGuarded(AttachRequest request);
  Status CheckAdrift(const BlockDevice* device) const;
  BlockDevice* Guard(BlockDevice* device);
  void ReleaseGuards();

  int Check(const BlockIo& io) const;
  bool MayAdmit();
  bool AwaitsPeers() const;
  void Start(BlockIo* io);
  void StartRead(BlockIo* io);
  void TryRead(ReadRequest* read);
  bool MayReadLocally(uint64_t offset, uint64_t length) const;
  void OnLocalRead(ReadRequest* read, int error);
  void FinishRead(ReadRequest* read, int error);
  void StartFlush(BlockIo* io);
  void CheckFlush(FlushRequest* flush);
  void StartWrite(BlockIo* io);
  void OnRange(Request* request);
  void OnExtents(Request* request, bool granted);
  void Register(Request* request);
  void Postpone(Request* request);
  void ChooseLegs(Request* request);
  void SubmitLocal(Request* request);
  void OnLocalWrite(Request* request, int error);
  void ReleaseExtents(Request* request);
  void DecideBits(Request* request);
  void Complete(BlockIo* io, int error);
  void DeliverCompleted();
  void QueueForAdmission(BlockIo* io);
  void FailWaiting();
  bool ReplicatesWithC() const;

  ResourceImpl& resource_;
  VolumeConfig config_;
  BlockGeometry geometry_;
  std::unique_ptr<Disk> disk_;
  BackingWatch backing_watch_{this};
  uint64_t disk_generation_ = 0;
  bool closing_disk_ = false;
  // Between this volume and its devices, with disk-timeout. Given up with ReleaseGuards.
  std::vector<DeadlineDevice*> guards_;
  std::string backend_name_;
  std::map<int, std::unique_ptr<PeerDevice>> peers_;
  RangeTable ranges_;
  ObjectPool<Request> requests_;
  ObjectPool<ReadRequest> reads_;
  ObjectPool<FlushRequest> flushes_;
  std::vector<FlushRequest*> flush_list_;
  bool lost_some_ = false;  // an acknowledged write, and no flush has said so yet
  std::vector<ReadRequest*> remote_reads_;
  BlockIo* waiting_head_ = nullptr;  // admission queue
  BlockIo* waiting_tail_ = nullptr;
  bool admitting_ = false;
  bool shut_ = false;
  int quiesced_ = 0;
  uint64_t upper_pending_ = 0;
  uint64_t lower_pending_ = 0;
  uint64_t in_work_ = 0;  // admitted, not completed
  uint64_t submissions_ = 0;
  WaitQueue idle_;
  VolumeCounters counters_;
  uint64_t application_bytes_ = 0;
  BlockIo* completed_head_ = nullptr;
  BlockIo* completed_tail_ = nullptr;
  bool delivery_scheduled_ = false;
  struct DeliverHook : umblock::Completion {
    Volume* volume;
    explicit DeliverHook(Volume* v);
  } deliver_hook_;
};

}  // namespace umblock::drbd
