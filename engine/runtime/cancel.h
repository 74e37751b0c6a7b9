// Cancelling means: ask, then await the end. A CancelSource asks; whoever holds its CancelToken and
// waits registers a CancelCallback, which makes the wait end early. Nothing is torn down by asking.
//
// A callback is called at most once, inside Cancel(), and is unregistered before it is called and
// by its destructor. The source outlives the uses of its tokens. Threading: one reactor.
#pragma once

namespace umblock {

class CancelCallback;

class CancelSource {
 public:
  CancelSource() = default;
  CancelSource(const CancelSource&) = delete;
  CancelSource& operator=(const CancelSource&) = delete;
  ~CancelSource();

  void Cancel() noexcept;
  bool requested() const { return requested_; }

 private:
  friend class CancelCallback;
  bool requested_ = false;
  CancelCallback* first_ = nullptr;
};

// May be empty: then it is never cancelled.
class CancelToken {
 public:
  CancelToken() = default;
  CancelToken(CancelSource& source) : source_(&source) {}  // NOLINT: a source is its token

  bool requested() const { return source_ != nullptr && source_->requested(); }

 private:
  friend class CancelCallback;
  CancelSource* source_ = nullptr;
};

class CancelCallback {
 public:
  using Fn = void (*)(CancelCallback* self) noexcept;

  explicit CancelCallback(Fn fn) : fn_(fn) {}
  CancelCallback(const CancelCallback&) = delete;
  CancelCallback& operator=(const CancelCallback&) = delete;
  ~CancelCallback() { Unregister(); }

  // The token must not have been cancelled yet: look at requested() first.
  void Register(CancelToken token);
  void Unregister() noexcept;

 private:
  friend class CancelSource;

  Fn fn_;
  CancelSource* source_ = nullptr;
  CancelCallback* previous_ = nullptr;
  CancelCallback* next_ = nullptr;
};

}  // namespace umblock
