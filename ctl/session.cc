#include "ctl/session.h"

#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>

#include <istream>
#include <ostream>

#include "ctl/views.h"

namespace umblock::ctl {

namespace {

std::string ToJson(const google::protobuf::Message& message, bool pretty) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = pretty;
  std::string json;
  (void)google::protobuf::util::MessageToJsonString(message, &json, options);
  return json;
}

}  // namespace

ExitCode ExitCodeOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return kExitUsage;
    case ErrorCode::kNotFound:
      return kExitNotFound;
    case ErrorCode::kAlreadyExists:
    case ErrorCode::kFailedPrecondition:
    case ErrorCode::kAborted:
      return kExitConflict;
    case ErrorCode::kDeadlineExceeded:
      return kExitTimeout;
    case ErrorCode::kUnavailable:
      return kExitUnavailable;
    default:
      return kExitFailure;
  }
}

Result<Client*> Session::client() {
  if (client_ == nullptr) {
    auto made = Client::Make(endpoint);
    if (!made) return std::unexpected(made.error());
    client_ = std::move(*made);
  }
  return client_.get();
}

Status Session::Call(const std::string& method, const google::protobuf::Message& request,
                     google::protobuf::Message* response) {
  auto to = client();
  if (!to) return std::unexpected(to.error());
  return (*to)->Call(method, request, response, timeout);
}

Status Session::Act(const std::string& method, const google::protobuf::Message& request,
                    google::protobuf::Message* response) {
  UMBLOCK_TRY(Call(method, request, response));
  Print(*response);
  return Ok();
}

void Session::Print(const google::protobuf::Message& message) {
  io.out << (json ? ToJson(message, true) : RenderMessage(message));
}

void Session::PrintLine(const google::protobuf::Message& message) {
  io.out << ToJson(message, false) << "\n" << std::flush;
}

void Session::PrintDone(const std::string& text) {
  if (!json) io.out << text << "\n";
}

Status Session::Confirm(const std::string& consequence) {
  if (yes) return Ok();
  if (!io.in_terminal) {
    return MakeError(ErrorCode::kInvalidArgument, "{}: say --yes to confirm", consequence);
  }
  io.err << consequence << ". Go on? [y/N] " << std::flush;
  std::string answer;
  std::getline(io.in, answer);
  if (answer == "y" || answer == "Y" || answer == "yes") return Ok();
  return MakeError(ErrorCode::kFailedPrecondition, "not confirmed, nothing was done");
}

}  // namespace umblock::ctl
