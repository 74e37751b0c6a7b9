#include "sim/result_io.h"

#include <fmt/core.h>

#include <sstream>

namespace umblock::sim {
namespace {

// Length, newline, bytes: whatever the text holds.
void PutText(std::string& out, const std::string& text) {
  out += fmt::format("{}\n{}\n", text.size(), text);
}

bool GetText(std::istringstream& in, std::string* text) {
  size_t size = 0;
  if (!(in >> size) || size > (size_t{64} << 20)) return false;
  in.get();
  text->resize(size);
  in.read(text->data(), static_cast<std::streamsize>(size));
  return in.good();
}

void PutLines(std::string& out, const std::vector<std::string>& lines) {
  out += fmt::format("{}\n", lines.size());
  for (const std::string& line : lines) PutText(out, line);
}

bool GetLines(std::istringstream& in, std::vector<std::string>* lines) {
  size_t count = 0;
  if (!(in >> count) || count > 100000) return false;
  lines->resize(count);
  for (std::string& line : *lines) {
    if (!GetText(in, &line)) return false;
  }
  return true;
}

}  // namespace

std::string EncodeResult(const RunResult& result) {
  const WorkloadCounts& counts = result.counts;
  std::string out =
      fmt::format("{} {} {} {} {} {} {} {} {} {}", result.ok ? 1 : 0, result.hash, result.events,
                  result.simulated.count(), counts.reads, counts.writes, counts.flushes,
                  counts.zeroes, counts.sweeps, counts.errors);
  for (uint64_t count : result.coverage.counts) out += fmt::format(" {}", count);
  out += "\n";
  PutText(out, result.failure);
  PutLines(out, result.schedule);
  PutLines(out, result.log);
  return out;
}

RunResult DecodeResult(const std::string& text) {
  RunResult result;
  std::istringstream in(text);
  int ok = 0;
  int64_t simulated = 0;
  WorkloadCounts& counts = result.counts;
  in >> ok >> result.hash >> result.events >> simulated >> counts.reads >> counts.writes >>
      counts.flushes >> counts.zeroes >> counts.sweeps >> counts.errors;
  for (uint64_t& count : result.coverage.counts) in >> count;
  result.simulated = Duration(simulated);
  if (!in || !GetText(in, &result.failure) || !GetLines(in, &result.schedule) ||
      !GetLines(in, &result.log)) {
    result.ok = false;
    result.failure = "the process of the seed ended without a result";
    return result;
  }
  result.ok = ok == 1;
  return result;
}

}  // namespace umblock::sim
