const COUNT = 200;
let seed = 1;
const random = () => (seed = (seed * 1103515245 + 12345) % 2147483648) / 2147483648;
const id = (at) => `ns-${at % 10}/service-${at}`;
const rates = (rate) => ({
  requestsPerSecond: rate, clientErrorsPerSecond: 0, serverErrorsPerSecond: 0, errorShare: 0, p50Ms: 2, p95Ms: 5 + rate, p99Ms: 90,
  connectionsPerSecond: 0, failedConnectionsPerSecond: 0, sentBytesPerSecond: 9e3, receivedBytesPerSecond: 1e3,
});
const nodes = Array.from({ length: COUNT }, (_, at) => ({
  id: id(at), kind: "workload", namespace: `ns-${at % 10}`, name: `service-${at}`, versions: ["v1"], workloads: [`service-${at}-v1`],
  inbound: rates(1), outbound: rates(1),
}));
const pairs = new Set();
for (let at = 1; at < COUNT; at += 1) for (let of = 0; of < 2; of += 1) pairs.add(`${id(Math.floor(random() * at))} ${id(at)}`);
let round = 0;
const graph = () => {
  const away = id(100 + (round += 1));
  const edges = [...pairs].map((pair) => pair.split(" ")).filter((ends) => round === 1 || !ends.includes(away))
    .map(([from, to]) => ({ from, to, protocols: ["http"], secured: "mutualTls", securedShare: 1, ...rates(random() * 100) }));
  return { level: "app", seconds: 60, nodes: nodes.filter((node) => round === 1 || node.id !== away), edges };
};
const real = window.fetch;
window.fetch = (url, options) => (url.includes("/graph?") ? Promise.resolve(new Response(JSON.stringify(graph()))) : real(url, options));
