-- Sends a file's bytes. Arguments: a token, the file, its content type.
wrk.method = "POST"

function init(args)
  wrk.headers["Authorization"] = "Bearer " .. args[1]
  wrk.headers["Content-Type"] = args[3]
  wrk.body = io.open(args[2], "rb"):read("*a")
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"rate": %.3f, "p50_ms": %.2f, "errors": %d}\n',
    summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1e3,
    e.status + e.connect + e.read + e.write + e.timeout))
end
