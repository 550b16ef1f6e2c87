// The page: reads the events of v1/live and shows them. Everything is set as text, never as markup.

const byId = (id) => document.getElementById(id);
const SILENCE_S = 4; // seconds without an event after which the page says that it has no data
const HIDDEN_S = 30; // a page that nobody sees stops reading after this
const LEVELS = ["ok", "notice", "warning", "critical"];

function element(name, classes, parent, text) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// One model

class Row {
  constructor() {
    this.tr = document.createElement("tr");
    const head = element("th", "", this.tr);
    head.scope = "row";
    const title = element("div", "head", head);
    element("span", "mark", title).setAttribute("aria-hidden", "true");
    this.name = element("span", "name", title);
    this.state = element("div", "note", head);

    const age = this.cell("age", "queue age, five minutes");
    const line = element("div", "line", age);
    this.age = element("span", "big", line);
    this.peak = element("span", "note", line);
    this.course = new Course("age", 40);
    age.append(this.course.svg);
    this.waiting = element("div", "note", age);

    const coming = this.cell("in", "requests in");
    this.arrived = element("div", "big", coming);
    this.incoming = new Course("in", 20);
    coming.append(this.incoming.svg);

    const answered = this.cell("answered", "answered");
    this.answered = element("div", "big", answered);
    this.late = element("div", "note", answered);

    this.unserved = element("div", "", this.cell("unserved", "not answered"));

    const latency = this.cell("latency", "latency");
    this.p99 = element("div", "big", latency);
    this.p50 = element("div", "note", latency);
    this.meter = element("div", "meter", latency);
    this.far = element("i", "far", this.meter);
    this.near = element("i", "", this.meter);
    this.tick = element("b", "", this.meter);

    const sizes = this.cell("sizes", "batch sizes");
    this.rows = element("div", "note", sizes);
    this.sizes = new Sizes();
    sizes.append(this.sizes.svg, this.sizes.axis);

    this.duty = element("div", "", this.cell("duty", "device busy"));
  }

  cell(kind, label) {
    const td = element("td", kind, this.tr);
    element("span", "label", td, label);
    return td;
  }

  show(model, history) {
    this.tr.dataset.level = model.level;
    this.tr.dataset.model = model.name;
    this.tr.classList.toggle("blank", model.age_seconds === null && !model.recent);
    set(this.name, model.label);
    this.name.title = model.label; // a very long one is cut
    const said = model.problems.length ? model.problems.join("; ") : model.state;
    set(this.state, model.level === "ok" ? said : `${model.level}: ${said}`);
    this.showAge(model, history);
    const recent = model.recent;
    set(this.arrived, rate(recent && recent.arrived));
    const most = Math.max(0, ...history.arrived.filter((value) => value !== null));
    const lost = history.unserved.map((value) => (value === null ? null : value));
    this.incoming.draw(history.arrived, null, `requests in over five minutes, at most ${rate(most)}`, lost);
    set(this.answered, rate(recent && recent.answered));
    const late = recent && recent.late ? `${rate(recent.late)} late` : "";
    set(this.late, late);
    this.late.className = late ? "note late" : "note";
    this.showUnserved(recent);
    this.showLatency(model, recent);
    set(this.rows, recent && recent.batch_rows !== null ? `${digits(recent.batch_rows, 3)} rows, ${rate(recent.batches)}` : "no batches");
    if (recent) this.sizes.draw(recent.batch_sizes, recent.batch_bounds.map(String));
    this.showDuty(model.devices);
  }

  showAge(model, history) {
    const known = history.age_seconds.filter((value) => value !== null);
    const peak = known.length ? Math.max(...known) : null;
    set(this.age, seconds(model.age_seconds));
    const over = model.target_seconds !== null && model.age_seconds > model.target_seconds;
    this.age.classList.toggle("over", over);
    set(this.peak, `${model.target_seconds === null ? "no target" : `target ${seconds(model.target_seconds)}`}, peak ${seconds(peak)}`);
    const label = `queue age over five minutes, peak ${seconds(peak)}, target ${model.target_seconds === null ? "none" : seconds(model.target_seconds)}`;
    this.course.draw(history.age_seconds, model.target_seconds, label);
    set(this.waiting, model.queue_requests === null || model.queue_requests === undefined ? "" : `${digits(model.queue_requests, 6)} waiting, ${digits(model.executing_requests, 6)} executing`);
  }

  showUnserved(recent) {
    const reasons = recent ? recent.reasons.filter((each) => each[2] > 0) : [];
    if (!reasons.length) {
      this.unserved.replaceChildren(element("div", "big nothing", null, recent ? "0/s" : NOTHING));
      return;
    }
    const total = reasons.filter((each) => each[0] !== "cancelled").reduce((sum, each) => sum + each[2], 0);
    const lines = [element("div", total ? "big over" : "big nothing", null, rate(total))];
    reasons.sort((a, b) => b[2] - a[2]);
    const most = reasons.length > 5 ? 4 : 5;
    for (const [outcome, reason, value] of reasons.slice(0, most)) {
      const word = outcome === "rejected" ? "refused" : outcome;
      lines.push(element("div", outcome === "cancelled" ? "note" : "note bad", null, `${rate(value)} ${word}: ${reason}`));
    }
    if (reasons.length > most) lines.push(element("div", "note", null, `and ${reasons.length - most} more reasons`));
    this.unserved.replaceChildren(...lines);
  }

  showLatency(model, recent) {
    const [p50, p99, target] = [recent && recent.latency_p50_seconds, recent && recent.latency_p99_seconds, model.target_seconds];
    set(this.p99, p99 ? `p99 ${seconds(p99)}` : "no answers");
    this.p99.classList.toggle("nothing", !p99);
    const over = p99 && target !== null && p99 > target;
    this.p99.classList.toggle("over", Boolean(over));
    set(this.p50, [p50 ? `p50 ${seconds(p50)}` : "", target === null ? "no target" : `target ${seconds(target)}`].filter(Boolean).join(", "));
    this.meter.classList.toggle("over", Boolean(over));
    const whole = Math.max(target === null ? 0 : target * 1.25, (p99 || 0) * 1.02, 1e-9);
    this.far.style.width = `${(100 * (p99 || 0)) / whole}%`;
    this.near.style.width = `${(100 * (p50 || 0)) / whole}%`;
    this.tick.style.display = target === null ? "none" : "";
    if (target !== null) this.tick.style.left = `${(100 * target) / whole}%`;
  }

  showDuty(devices) {
    while (this.duty.childElementCount > devices.length) this.duty.lastChild.remove();
    while (this.duty.childElementCount < devices.length) {
      const one = element("div", "", this.duty);
      element("span", "big", one);
      element("span", "note", one);
      element("i", "", element("div", "meter", one));
    }
    devices.forEach((each, place) => {
      const [share, name, meter] = this.duty.children[place].children;
      set(share, percent(each.duty_cycle_ratio));
      set(name, ` ${each.device}`);
      meter.firstChild.style.width = `${100 * (each.duty_cycle_ratio || 0)}%`;
    });
  }
}

// All of it

const rows = new Map();
const histories = new Map();
let shown = null; // the last event
let number = 0; // its id
let receivedAt = 0; // when it came, on the viewer's monotonic clock, in seconds
let restarted = null;
let trouble = "";

const now = () => performance.now() / 1000;
const key = (model) => `${model.name}\u0000${model.version}`;

function remember(event, id) {
  if (event.history) {
    histories.clear();
    for (const { name, version, ...columns } of event.history) histories.set(key({ name, version }), columns);
    if (shown && shown.server.start_id !== event.server.start_id) {
      restarted = { at: event.timestamp_seconds - event.server.uptime_seconds, start: event.server.start_id };
    }
    return;
  }
  const skipped = Math.min(HISTORY, Math.max(0, id - number - 1)); // this viewer was too slow for them
  for (const model of event.models) {
    if (!model.second) continue;
    let columns = histories.get(key(model));
    if (!columns) histories.set(key(model), (columns = { age_seconds: [], arrived: [], unserved: [] }));
    for (const [name, values] of Object.entries(columns)) {
      values.push(...Array(skipped).fill(null), model.second[name]);
      values.splice(0, Math.max(0, values.length - HISTORY));
    }
  }
}

function show(event, id) {
  remember(event, id);
  shown = event;
  number = id;
  receivedAt = now();
  trouble = "";
  document.body.classList.remove("waiting");
  document.body.dataset.number = id; // which sample is on the screen, for those who test this page
  const server = event.server;
  byId("status").dataset.level = event.status.level;
  set(byId("headline"), event.status.text);
  set(byId("meta"), [server.replica, `batcher ${server.version}`, `up ${seconds(Math.round(server.uptime_seconds))}`, server.draining ? "draining" : ""].filter(Boolean).join(" · "));
  set(byId("window"), `rates, latencies, batches and busy time of the last ${event.window_seconds} seconds`);
  byId("scale").hidden = server.desired_ratio === undefined;
  if (server.desired_ratio !== undefined) set(byId("desired"), percent(server.desired_ratio));
  showProblems(event.problems);
  showModels(event.models);
  showDevices(event.devices);
  showChanges(event.changes, event.timestamp_seconds);
  showTrouble();
}

function showProblems(problems) {
  const listed = problems.slice(1, 9); // the headline has the first
  const lines = listed.map((problem) => {
    const li = document.createElement("li");
    li.dataset.level = problem.severity;
    element("span", "mark", li).setAttribute("aria-hidden", "true");
    const text = element("span", "", li);
    if (problem.model) element("b", "", text, `${problem.model}: `);
    text.append(`${problem.text} (${problem.severity})`);
    return li;
  });
  if (problems.length > 9) {
    lines.push(element("li", "muted", null, `and ${problems.length - 9} more, below`));
  }
  byId("problems").replaceChildren(...lines);
}

function showModels(models) {
  byId("models").hidden = !models.length;
  byId("empty").hidden = Boolean(models.length);
  const names = models.map((model) => model.name);
  for (const model of models) {
    const several = names.indexOf(model.name) !== names.lastIndexOf(model.name);
    model.label = several || !["", "1"].includes(model.version) ? `${model.name} version ${model.version}` : model.name;
  }
  const worstFirst = models.map((model, place) => ({ model, place }));
  worstFirst.sort((a, b) => LEVELS.indexOf(b.model.level) - LEVELS.indexOf(a.model.level) || a.place - b.place);
  const body = byId("models").tBodies[0], used = new Set();
  worstFirst.forEach(({ model }, place) => {
    const id = key(model);
    used.add(id);
    if (!rows.has(id)) rows.set(id, new Row());
    const row = rows.get(id);
    row.show(model, histories.get(id) || { age_seconds: [], arrived: [], unserved: [] });
    if (body.children[place] !== row.tr) body.insertBefore(row.tr, body.children[place] || null);
  });
  for (const [id, row] of rows) {
    if (!used.has(id)) { row.tr.remove(); rows.delete(id); histories.delete(id); }
  }
}

function showDevices(devices) {
  byId("devices-section").hidden = !devices.length;
  const cards = devices.map((device) => {
    const card = element("div", "device");
    element("h3", "", card, device.device);
    const list = element("dl", "", card);
    for (const [name, text] of deviceFacts(device)) {
      const pair = element("div", "", list);
      element("dt", "", pair, name);
      element("dd", "", pair, text);
    }
    return card;
  });
  byId("devices").replaceChildren(...cards);
}

const RATIOS = { duty_cycle_ratio: "busy", batch_fill_ratio: "batch fill", load_ratio: "load", headroom_ratio: "headroom" };

function deviceFacts(device) {
  const facts = [];
  for (const [name, label] of Object.entries(RATIOS)) {
    if (device[name] === undefined) continue;
    facts.push([label, name === "headroom_ratio" ? `${digits(device[name], 2)} x the load` : percent(device[name])]);
  }
  if (device.slots !== undefined) facts.push(["batches at once", `${device.batches_in_flight} of ${device.slots}`]);
  else facts.push(["batches in flight", String(device.batches_in_flight)]);
  return [...facts, ...gpuFacts(device.statistics || {})];
}

const SHARES = {
  utilization_ratio: "GPU utilization", sm_utilization_ratio: "SM busy", sm_occupancy_ratio: "SM occupancy",
  tensor_activity_ratio: "tensor cores", memory_bandwidth_ratio: "memory bandwidth",
};

/** What NVML says; what it does not say is left out, and why it says nothing is said. */
function gpuFacts(gpu) {
  const facts = [];
  if (gpu.product) facts.push(["GPU", gpu.mig ? `${gpu.product}, MIG` : gpu.product]);
  if (gpu.state && !["ok", "no_gpu"].includes(gpu.state)) facts.push(["statistics", gpu.reason || gpu.state]);
  for (const why of Object.values(gpu.failures || {})) facts.push(["failed", why]);
  for (const [name, label] of Object.entries(SHARES)) {
    if (gpu[name] !== undefined) facts.push([label, percent(gpu[name])]);
  }
  if (gpu.memory_used_bytes !== undefined) {
    const total = gpu.memory_total_bytes === undefined ? "" : ` of ${bytes(gpu.memory_total_bytes)}`;
    facts.push(["memory", `${bytes(gpu.memory_used_bytes)}${total}`]);
  }
  if (gpu.power_watts !== undefined) facts.push(["power", `${digits(gpu.power_watts, 3)} W`]);
  if (gpu.temperature_celsius !== undefined) facts.push(["temperature", `${digits(gpu.temperature_celsius, 3)} °C`]);
  if (gpu.sm_clock_hertz !== undefined) facts.push(["SM clock", `${digits(gpu.sm_clock_hertz / 1e6, 4)} MHz`]);
  const throttled = Object.entries(gpu.throttle_reasons || {}).filter((each) => each[1]).map((each) => each[0]);
  if (throttled.length) facts.push(["clocks kept down by", throttled.join(", ")]);
  if (gpu.ecc_uncorrected) facts.push(["uncorrected ECC errors", digits(gpu.ecc_uncorrected, 6)]);
  for (const [xid, count] of Object.entries(gpu.xid_events || {})) facts.push([`XID ${xid}`, `${count} times`]);
  if (gpu.age_seconds > 3) facts.push(["read", ago(gpu.age_seconds)]);
  return facts;
}

function showChanges(changes, at) {
  const all = [...changes];
  if (restarted && !all.some((each) => Math.abs(each.timestamp_seconds - restarted.at) < 2)) {
    all.push({ timestamp_seconds: restarted.at, severity: "warning", text: "server: restarted" });
  }
  const lines = all.map((change) => {
    const li = document.createElement("li");
    li.dataset.level = change.severity;
    const mark = element("span", "mark", li);
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", change.severity);
    const time = element("time", "", li, `${clock(change.timestamp_seconds)}, ${ago(at - change.timestamp_seconds)}`);
    time.dateTime = new Date(change.timestamp_seconds * 1000).toISOString();
    element("span", "", li, change.text);
    return li;
  });
  if (!lines.length) lines.push(element("li", "muted", null, "Nothing yet."));
  byId("changes").replaceChildren(...lines);
}

function showTrouble() {
  const silent = shown ? now() - receivedAt : 0;
  const stale = silent > SILENCE_S || (Boolean(trouble) && silent > 1.5);
  document.body.classList.toggle("stale", stale && Boolean(shown));
  const banner = byId("banner");
  const fresh = restarted && shown && shown.timestamp_seconds - restarted.at < HISTORY;
  banner.hidden = !(stale || fresh || (trouble && !shown));
  banner.classList.toggle("told", !stale && Boolean(fresh));
  if (stale) {
    set(banner, `No data since ${clock(shown.timestamp_seconds)} (${Math.round(silent)} s): ${trouble || "the server is silent"}. Trying again.`);
    byId("status").dataset.level = "none";
  } else if (trouble && !shown) {
    set(banner, `No data: ${trouble}. Trying again.`);
  } else if (fresh) {
    set(banner, `The server was restarted at ${clock(restarted.at)}: every count began at 0.`);
  }
  const mark = { ok: "✓", notice: "i", warning: "!", critical: "✕" };
  document.title = stale || !shown
    ? "? no data · batcher"
    : `${mark[shown.status.level]} ${shown.status.text} · batcher`;
}

// Reading

let reading = null; // aborts the stream that is read

async function read() {
  reading = new AbortController();
  const answer = await fetch("v1/live", { signal: reading.signal, cache: "no-store" });
  if (!answer.ok) throw new Error((await answer.text()).trim().slice(0, 200) || `status ${answer.status}`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) take(part);
  }
}

function take(part) {
  const fields = {};
  for (const line of part.split("\n")) {
    const colon = line.indexOf(": ");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
  }
  try {
    if (fields.data) show(JSON.parse(fields.data), Number(fields.id));
  } catch (error) {
    console.error("an event cannot be shown:", error); // the next one may be
  }
}

async function keepReading() {
  for (;;) {
    if (document.hidden && hiddenFor() > HIDDEN_S) {
      await new Promise((resume) => document.addEventListener("visibilitychange", resume, { once: true }));
      continue;
    }
    try {
      await read();
      trouble = "the stream has ended";
    } catch (error) {
      trouble = error.name === "AbortError" ? "the server is silent" : error instanceof TypeError ? "the server cannot be reached" : error.message;
    }
    showTrouble();
    await new Promise((resume) => setTimeout(resume, 1000));
  }
}

let hiddenAt = null;
const hiddenFor = () => (hiddenAt === null ? 0 : now() - hiddenAt);
document.addEventListener("visibilitychange", () => { hiddenAt = document.hidden ? now() : null; });

setInterval(() => {
  showTrouble();
  const quiet = shown && now() - receivedAt > 3 * SILENCE_S;
  if (reading && (hiddenFor() > HIDDEN_S || quiet)) {
    reading.abort();
    if (quiet) receivedAt += 0; // `showTrouble` goes on to count from the last event
  }
}, 1000);
keepReading();
