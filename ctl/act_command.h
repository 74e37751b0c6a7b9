// AddAct: the verbs that send one request about an object and show the object that comes back.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "ctl/command.h"

namespace umblock::ctl {

template <typename Request>
struct Act {
  CLI::App* verb;
  std::shared_ptr<Request> request;
};

// `method` as "VolumeService.Attach", whose answer is an Object. `before` may refuse the request
// when the verb runs: it asks for confirmation.
template <typename Object, typename Request>
Act<Request> AddAct(const Builder& b, CLI::App* noun, const char* name, const char* help,
                    const std::string& method,
                    const std::function<Status(const Request&)>& before = {}) {
  Session& s = b.session;
  auto request = std::make_shared<Request>();
  CLI::App* verb = b.Verb(noun, name, help, [&s, request, method, before]() -> Status {
    if (before) UMBLOCK_TRY(before(*request));
    Object object;
    return s.Act(method, *request, &object);
  });
  return {verb, request};
}

}  // namespace umblock::ctl
