-- Posts a file's bytes. Arguments: token or "-", the file, its content type. The one JSON line that
-- is written at the end is what wrk.py reads.
wrk.method = "POST"

function init(args)
  if args[1] ~= "-" then
    wrk.headers["Authorization"] = "Bearer " .. args[1]
  end
  local file = io.open(args[2], "rb")
  wrk.body = file:read("*a")
  file:close()
  wrk.headers["Content-Type"] = args[3]
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50": %.4f, "p99": %.4f, "mean": %.4f, "bad_status": %d, "socket_errors": %d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.mean / 1e3,
    e.status, e.connect + e.read + e.write + e.timeout))
end
