// Polls the launcher every two seconds and shows its answers. Text is inserted as text, never as HTML.
import { Chart } from "./chart.js";

const EVERY = 2000;
const MUSIC_EVERY = 3; // rounds
const element = (id) => document.getElementById(id);
const setText = (id, text) => { if (element(id).textContent !== text) element(id).textContent = text; };

const short = (value) => {
  const size = Math.abs(value);
  if (size >= 1e9) return `${+(value / 1e9).toPrecision(3)}G`;
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (size > 0 && size < 0.01) return (+value.toPrecision(2)).toExponential();
  return `${+value.toPrecision(3)}`;
};
const whole = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });
const known = (value, format) => (value === null || value === undefined ? "–" : format(value));
const fixed = (digits) => (value) => value.toFixed(digits);
const share = (value) => `${(100 * value).toFixed(0)} %`;

function duration(seconds) {
  const all = Math.max(0, Math.round(seconds)), days = Math.floor(all / 86400);
  const hours = Math.floor(all / 3600) % 24, minutes = Math.floor(all / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${minutes < 10 ? `${all % 60} s` : ""}`.trim() : `${all} s`;
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${+value.toPrecision(3)} ${units[unit]}`;
}

// Times of today without the date, others with it.
function moment(when) {
  const date = new Date(when), time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString("en-CA")} ${time.slice(0, 5)}`;
}

const lossChart = new Chart(element("loss"), [{ name: "train" }, { name: "validation", dots: true }, { name: "validation, averaged weights", dots: true }], (value, exact) => (exact ? value.toFixed(4) : short(value)));
const charts = new Map();

// The chart of a metric; the history says which metrics have one.
function chartOf({ name, title, unit, from_zero: zero, wide }) {
  if (!charts.has(name)) {
    const section = document.createElement("section"), heading = section.appendChild(document.createElement("h2"));
    section.id = name;
    section.className = `card curve${wide ? " two" : ""}`;
    heading.append(title, " ", Object.assign(document.createElement("small"), { textContent: unit }));
    element("music").before(section);
    charts.set(name, new Chart(section, [{ name: title.toLowerCase() }], (value, exact) => (exact && Math.abs(value) < 1 ? value.toPrecision(4) : short(value)), { zero }));
  }
  return charts.get(name);
}

function showHead(progress) {
  const role = progress.role === "prepare" ? "preparation" : "training";
  document.title = `${progress.job} · ${progress.state}`;
  setText("job", progress.job);
  setText("state", progress.state);
  element("state").className = `pill ${{ Finished: "good", Failed: "bad", Starting: "", Saving: "busy" }[progress.state] ?? "busy"}`;
  const ranks = `${progress.worldSize} rank${progress.worldSize === 1 ? "" : "s"}`;
  setText("about", [
    `namespace ${progress.namespace}`, `${role}, attempt ${progress.attempt}`, progress.mode, progress.precision,
    role === "training" ? ranks : null, `started ${moment(progress.startedAt)}`,
  ].filter(Boolean).join(" · "));
}

function showTraining(progress, history) {
  const { step, totalSteps } = progress, pace = history.secondsPerStep;
  setText("done", totalSteps === null ? `${progress.state} …` : `Step ${whole(step)} of ${whole(totalSteps)} · ${share(step / totalSteps)}`);
  element("bar").value = totalSteps ? step / totalSteps : 0;
  const left = totalSteps !== null && pace !== null && progress.state === "Training" ? `about ${duration((totalSteps - step) * pace)} left` : "";
  setText("left", progress.stopReason ?? left);
  showFigures([
    ["loss", known(progress.loss, fixed(4))],
    ["validation loss", known(progress.validationLoss, fixed(4))],
    ["tokens/s", known(progress.tokensPerSecond, whole)],
    ["total tokens", known(progress.tokensTotal, short)],
    ["learning rate", known(progress.learningRate, short)],
    ...(progress.mfu === null ? [] : [["MFU", share(progress.mfu)]]),
    ["goodput", known(progress.goodputRatio, share)],
    ["attempts", whole(history.attempts.length)],
    ...Object.entries(progress.evaluation).slice(0, 4).map(([name, value]) => [name, known(value, short)]),
  ]);
}

function showPreparation(progress) {
  const preparation = progress.preparation ?? { filesDone: 0, filesTotal: null, filesDropped: 0, dataset: null };
  setText("done", preparation.filesTotal === null ? "Looking for files …" : `File ${whole(preparation.filesDone)} of ${whole(preparation.filesTotal)}`);
  setText("left", "");
  element("bar").value = preparation.filesTotal ? preparation.filesDone / preparation.filesTotal : 0;
  showFigures([
    ["files done", whole(preparation.filesDone)], ["files dropped", whole(preparation.filesDropped)],
    ...(preparation.dataset === null ? [] : [["files used", whole(preparation.dataset.files)], ["training tokens", short(preparation.dataset.trainTokens)]]),
  ]);
}

function showFigures(figures) {
  element("figures").replaceChildren(...figures.map(([name, value]) => {
    const figure = document.createElement("div");
    figure.className = "figure";
    figure.append(Object.assign(document.createElement("b"), { textContent: value }), Object.assign(document.createElement("span"), { textContent: name }));
    return figure;
  }));
}

function showCurves(history) {
  const train = (name) => column(history.train, name), validation = (name) => column(history.validation, name);
  const starts = history.attempts.filter((attempt) => attempt.start_step)
    .map((attempt) => ({ step: attempt.start_step, text: `attempt ${attempt.number} started at step ${attempt.start_step}` }));
  const events = history.events.filter((event) => event.step !== null)
    .map((event) => ({ step: event.step, text: `${event.kind}: ${event.message}`, event: true }));
  const marks = [...starts, ...events];
  lossChart.show([train("loss"), validation("loss"), validation("emaLoss")], marks);
  for (const chart of history.charts) chartOf(chart).show([train(chart.name)], chart.events ? marks : starts);
}

function column({ columns, rows }, name) {
  const index = columns.indexOf(name);
  return rows.map((row) => [row[0], row[index]]);
}

function showEvents(events) {
  const list = element("events").querySelector("ul");
  const shown = JSON.stringify(events);
  if (list.shown === shown) return;
  list.shown = shown;
  list.replaceChildren(...events.slice().reverse().map(({ time, kind, step, message }) => {
    const item = document.createElement("li"), text = document.createElement("span");
    text.append(Object.assign(document.createElement("b"), { textContent: kind }), message);
    if (step !== null) text.append(Object.assign(document.createElement("small"), { textContent: `step ${whole(step)}` }));
    item.append(Object.assign(document.createElement("time"), { textContent: moment(time) }), text);
    return item;
  }));
  if (!events.length) list.append(Object.assign(document.createElement("li"), { className: "empty", textContent: "No events." }));
}

function showTable(id, rows, empty) {
  const body = element(id).querySelector("tbody"), shown = JSON.stringify(rows);
  if (body.shown === shown) return;
  body.shown = shown;
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map(([text, className]) => Object.assign(document.createElement("td"), { textContent: text, className: className ?? "" })));
    return row;
  }));
  if (!rows.length) {
    const cell = Object.assign(document.createElement("td"), { className: "empty", textContent: empty, colSpan: 6 });
    body.append(document.createElement("tr"));
    body.firstChild.append(cell);
  }
}

function showAttempts(attempts, state) {
  const last = attempts.length - 1;
  showTable("attempts", attempts.map((attempt, index) => {
    const end = attempt.state ?? (index === last ? state : "Lost");
    const look = { Succeeded: "is-good", Failed: "is-bad", Lost: "is-warn" }[end];
    const until = attempt.ended_at ?? attempts[index + 1]?.started_at ?? Date.now() / 1000;
    const why = attempt.message ?? (end === "Lost" ? "The pod disappeared without a report." : "");
    return [
      [whole(attempt.number)], [moment(1000 * attempt.started_at)], [known(attempt.start_step, whole)],
      [attempt.state === null && index !== last ? "–" : duration(until - attempt.started_at)],
      [attempt.failure_class ? `${end}: ${attempt.failure_class}` : end, look], [why, "text"],
    ];
  }).reverse(), "None yet");
}

function showArtifacts({ checkpoints, samples: music }) {
  const looks = { healthy: "is-good", doubtful: "is-warn", damaged: "is-bad" };
  showTable("checkpoints", checkpoints.map((found) => [
    [whole(found.step)], [moment(found.time)], [known(found.bytes, bytes)], [known(found.validationLoss, fixed(4))],
    [found.health, looks[found.health]],
  ]), "None yet");
  element("music").hidden = music === null;
  if (music === null || element("music").version === music.version) return;
  element("music").version = music.version;
  setText("sampled", `sampled at step ${whole(music.step)}`);
  const address = (name) => `samples/${music.folder}/${name}?v=${music.version}`;
  const picture = music.files.find((name) => name.endsWith(".png"));
  element("roll").hidden = picture === undefined;
  if (picture !== undefined) element("roll").src = address(picture);
  element("files").replaceChildren(...music.files.map((name) => Object.assign(document.createElement("a"), {
    textContent: name, href: address(name), download: name.endsWith(".mid") ? `${document.title.split(" ")[0]}-${music.folder}-${name}` : "",
  })));
}

function showAlarm(progress) {
  const quiet = progress.heartbeatAgeSeconds;
  const text = progress.state === "Training" && quiet > 60 ? `No rank of this pod has finished a step for ${duration(quiet)}.`
    : progress.nodeRank > 0 ? `This is node ${progress.nodeRank}; the page of node 0 has the loss, curves and attempts of the whole job.` : "";
  element("alarm").hidden = !text;
  setText("alarm", text);
}

async function json(path) {
  const answer = await fetch(path, { cache: "no-cache", signal: AbortSignal.timeout(8000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

let round = 0, answeredAt = null;

async function refresh() {
  try {
    const [progress, history] = await Promise.all([json("progress"), json("history")]);
    const training = progress.role === "train";
    for (const part of document.querySelectorAll(".curve, #attempts, #checkpoints")) part.hidden = !training;
    showHead(progress);
    if (training) {
      showTraining(progress, history);
      showCurves(history);
      showAttempts(history.attempts, progress.state);
    } else showPreparation(progress);
    const kept = history.events.map((event) => ({ ...event, time: 1000 * event.time }));
    showEvents(kept.length ? kept : progress.events);
    showAlarm(progress);
    answeredAt = Date.now();
    if (round++ % MUSIC_EVERY === 0 || progress.state !== "Training") showArtifacts(await json("artifacts"));
    setText("age", `As of ${moment(answeredAt)}.`);
    document.body.dataset.shown = String(round);
  } catch (error) {
    element("alarm").hidden = false;
    setText("alarm", answeredAt === null ? `The launcher does not respond (${error.message}).`
      : `No response from the launcher since ${moment(answeredAt)}: the pod terminated or is unreachable. The page shows its last values.`);
  }
  setTimeout(refresh, EVERY);
}

refresh();
