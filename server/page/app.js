// The page: the shop live on the left, one customer on the right. All data comes from the API; all of it is set as
// text, never as markup.

import { drawBars } from "/chart.js";

const API = "/api/v1";
const MINUTE = 60_000;
const SHOWN_ORDERS = 14, SHOWN_LIST = 6, SHOWN_HISTORY = 12;
const FOLLOW_EVERY = 5_000;

const byId = id => document.getElementById(id);
const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const count = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", timeZone: "UTC" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const moment = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZone: "UTC" });

function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter(child => child !== undefined && child !== null));
  return made;
}

async function ask(path) {
  const response = await fetch(API + path, { headers: { accept: "application/json" } });
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.detail ?? answer.title), { problem: answer });
  return answer;
}

// Draws at most once a frame, however many events come.
function batched(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };
}

// ---- the shop ----

const minutes = new Map();
let orders = [];
let fresh = new Set();
let now = 0;
let span = 60;

function sawTime(text) {
  const time = Date.parse(text);
  if (Number.isNaN(time)) return;
  now = Math.max(now, time);
  byId("as-of").textContent = `${moment.format(now)} UTC`;
  byId("as-of").setAttribute("datetime", text);
}

function setMinute(minute) {
  const at = Date.parse(minute.minute);
  if (minute.orders > 0) minutes.set(at, { revenue: Number(minute.revenue), orders: minute.orders });
  else minutes.delete(at);
  now = Math.max(now, at);
}

const drawRevenue = batched(() => {
  const per = { 60: 1, 360: 5, 1440: 15 }[span];
  const step = per * MINUTE;
  const end = Math.floor(now / step) * step + step;
  const begin = end - span * MINUTE;
  const bars = Array.from({ length: span / per }, (_, index) => ({ start: begin + index * step, revenue: 0, orders: 0 }));
  let revenue = 0, placed = 0;
  for (const [at, minute] of minutes) {
    if (at < end - 1440 * MINUTE) { minutes.delete(at); continue; }
    if (at < begin || at >= end) continue;
    const bar = bars[Math.floor((at - begin) / step)];
    bar.revenue += minute.revenue;
    bar.orders += minute.orders;
    revenue += minute.revenue;
    placed += minute.orders;
  }
  byId("bin-label").textContent = per === 1 ? "per minute" : `per ${per} minutes`;
  byId("sum-revenue").textContent = money.format(revenue);
  byId("sum-orders").textContent = count.format(placed);
  byId("average-order").textContent = placed ? money.format(revenue / placed) : "–";
  drawBars(byId("chart"), bars, step);
});

const tones = { cancelled: "bad", returned: "bad", completed: "good", shipped: "good" };

function chip(status) {
  return make("span", { class: `chip ${tones[status] ?? ""}` }, status);
}

function customerLabel(id, name) {
  return name || (id === null ? "Guest" : `Customer ${id}`);
}

const drawOrders = batched(() => {
  const rows = orders.slice(0, SHOWN_ORDERS).map(order => {
    const label = customerLabel(order.user_id, order.customer_name);
    const who = order.user_id === null
      ? make("span", {}, label)
      : make("button", { type: "button", title: `Show ${label}`, onclick: () => { byId("follow").checked = false; show(order.user_id); } }, label);
    who.append(make("span", { class: "items" }, ` · ${order.items.length} ${order.items.length === 1 ? "product" : "products"}`));
    return make("li", { class: fresh.has(order.order_id) ? "fresh" : undefined },
      make("time", { datetime: order.created_at, title: `${moment.format(Date.parse(order.created_at))} UTC` }, clock.format(Date.parse(order.created_at))),
      who, chip(order.status), make("span", { class: "amount" }, money.format(order.total_amount)));
  });
  fresh = new Set();
  if (rows.length) byId("orders").replaceChildren(...rows);
});

function setOrder(order) {
  const known = orders.findIndex(other => other.order_id === order.order_id);
  if (known >= 0) orders[known] = order;
  else orders.unshift(order);
  orders.sort((a, b) => (a.created_at < b.created_at) - (a.created_at > b.created_at) || b.order_id - a.order_id);
  orders.length = Math.min(orders.length, 40);
  fresh.add(order.order_id);
  return known < 0;
}

function connected(on) {
  byId("live").className = `live ${on ? "on" : "off"}`;
  byId("live-text").textContent = on ? "Live" : "Reconnecting";
}

function listen() {
  const source = new EventSource(`${API}/revenue/stream`);
  source.addEventListener("open", () => connected(true));
  source.addEventListener("error", () => {
    connected(false);
    // The browser reconnects by itself unless the server has refused outright.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3_000);
  });
  source.addEventListener("snapshot", event => {
    const snapshot = JSON.parse(event.data);
    minutes.clear();
    snapshot.minutes.forEach(setMinute);
    orders = snapshot.orders;
    sawTime(snapshot.as_of);
    drawRevenue();
    drawOrders();
    if (shown !== null) refresh();
  });
  source.addEventListener("revenue", event => {
    const change = JSON.parse(event.data);
    setMinute(change.minute);
    sawTime(change.as_of);
    drawRevenue();
  });
  source.addEventListener("order", event => {
    const { order, as_of } = JSON.parse(event.data);
    const isNew = setOrder(order);
    sawTime(as_of);
    drawOrders();
    if (order.user_id === null) return;
    if (order.user_id === shown) refresh(order, isNew);
    else if (isNew && byId("follow").checked && Date.now() - shownAt > FOLLOW_EVERY) show(order.user_id);
    if (isNew) offer(order.user_id, order.customer_name);
  });
  // Ends the stream in order when the page goes, so that the server does not find out by a failed write.
  addEventListener("pagehide", () => source.close(), { once: true });
}

// ---- the customer ----

let shown = null;
let shownAt = 0;
let before = null;

function offer(id, name) {
  const list = byId("recent");
  const value = String(id);
  const option = [...list.options].find(other => other.value === value) ?? new Option(customerLabel(id, name), value);
  if (document.activeElement === list) return;
  list.prepend(option);
  while (list.options.length > 60) list.lastElementChild.remove();
  list.value = shown === null ? value : String(shown);
}

function show(id) {
  shown = id;
  shownAt = Date.now();
  before = null;
  byId("number").value = "";
  const url = new URL(location);
  url.searchParams.set("customer", id);
  history.replaceState(null, "", url);
  refresh();
}

async function settled(promise) {
  try { return { value: await promise }; } catch (error) { return { error }; }
}

let asked = 0;
async function refresh(order, isNew) {
  const id = shown, turn = ++asked;
  const [profile, list, churn, past] = await Promise.all([
    settled(ask(`/customers/${id}`)),
    settled(ask(`/customers/${id}/recommendations?k=${SHOWN_LIST}&explain=true`)),
    settled(ask(`/customers/${id}/churn`)),
    settled(ask(`/customers/${id}/orders?limit=${SHOWN_HISTORY}`)),
  ]);
  // A later question has overtaken this one.
  if (turn !== asked) return;
  drawProfile(id, profile);
  drawList(list);
  drawChurn(churn);
  drawHistory(past, order);
  offer(id, profile.value?.name);
  if (order) byId("said").textContent = `${customerLabel(id, profile.value?.name)}: order ${order.order_id} ${isNew ? "placed" : "is now " + order.status}; list and risk are up to date.`;
  before = { list: list.value?.recommendations.map(product => product.product_id), churn: churn.value?.churn_probability };
}

function figure(label, value, title) {
  return make("div", { title }, make("dt", {}, label), make("dd", {}, value));
}

const segmentTones = { champions: "good", loyal: "good", at_risk: "warn", cannot_lose: "warn", lost: "bad", hibernating: "bad" };

function drawProfile(id, { value, error }) {
  const notice = byId("notice");
  notice.hidden = !error;
  if (error) {
    notice.textContent = error.problem?.code === "unknown_customer"
      ? `There is no customer ${id}. A visitor nobody knows yet would see the list below.` : error.message;
    byId("name").textContent = `Customer ${id}`;
    byId("sub").textContent = "";
    byId("segment").hidden = true;
    byId("profile-figures").replaceChildren();
    return;
  }
  sawTime(value.as_of);
  byId("name").textContent = customerLabel(id, value.name);
  byId("sub").textContent = [`No. ${id}`, value.created_at && `customer since ${day.format(Date.parse(value.created_at))}`].filter(Boolean).join(" · ");
  const segment = byId("segment");
  segment.hidden = !value.rfm;
  if (value.rfm) {
    segment.textContent = value.rfm.segment.replaceAll("_", " ");
    segment.className = `chip ${segmentTones[value.rfm.segment] ?? ""}`;
    segment.title = `Recency ${value.rfm.recency_score}, frequency ${value.rfm.frequency_score}, monetary ${value.rfm.monetary_score} of 5`;
  }
  byId("profile-figures").replaceChildren(
    figure("Orders", count.format(value.frequency), "Neither cancelled nor returned"),
    figure("Spent", money.format(value.monetary)),
    figure("Last order", value.recency_days === null ? "–" : value.recency_days === 0 ? "today" : `${count.format(value.recency_days)} d ago`),
    figure("RFM", value.rfm ? `${value.rfm.recency_score}${value.rfm.frequency_score}${value.rfm.monetary_score}` : "–", "Recency, frequency, monetary: 1 to 5"));
}

function meter(share, className) {
  const bar = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  bar.setAttribute("viewBox", "0 0 100 10");
  bar.setAttribute("preserveAspectRatio", "none");
  const fill = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  fill.setAttribute("height", "10");
  fill.setAttribute("width", String(Math.max(0, Math.min(100, share * 100))));
  bar.append(fill);
  return make("div", { class: `meter ${className}`, "aria-hidden": "true" }, bar);
}

function movement(product, rank) {
  if (!before?.list) return null;
  const was = before.list.indexOf(product.product_id);
  if (was === rank) return null;
  if (was < 0) return make("span", { class: "chip good move" }, "new");
  const up = was > rank;
  return make("span", { class: `chip move ${up ? "good" : ""}` }, `${up ? "▲" : "▼"} ${Math.abs(was - rank)}`);
}

function drawList({ value, error }) {
  const list = byId("recommendations");
  if (error) {
    byId("recommender-version").textContent = "";
    list.replaceChildren(make("li", { class: "empty" }, error.message));
    return;
  }
  const reasons = { unknown_customer: "popular products: customer not known", no_history: "popular products: no purchases yet", no_model: "popular products: no model yet" };
  byId("recommender-version").textContent = value.fallback ? reasons[value.fallback_reason] ?? "popular products" : `model ${value.model_version}`;
  // Scores may be log-odds, so below zero: the bars show the range from the last to the first, not from zero.
  const scores = value.recommendations.map(product => product.score).filter(score => score !== null);
  const best = Math.max(...scores), worst = Math.min(...scores);
  const share = score => score === null ? 0 : best > worst ? 0.12 + 0.88 * (score - worst) / (best - worst) : 1;
  const rows = value.recommendations.map((product, rank) => {
    const moved = movement(product, rank);
    return make("li", { class: moved ? "fresh" : undefined },
      make("span", { class: "rank" }, String(rank + 1)),
      make("span", { class: "product" }, product.name ?? `Product ${product.product_id}`, " ",
        make("span", { class: "category" }, [product.category, product.price && money.format(product.price)].filter(Boolean).join(" · ")), moved),
      make("span", { class: "score", title: "Score: higher is better, comparable within this list" }, make("b", {}, product.score === null ? "–" : product.score.toFixed(2).replace("-", "−")), meter(share(product.score), "")),
      make("span", { class: "why" }, (product.reasons ?? []).map(reason => reason.text).join("; ")));
  });
  list.replaceChildren(...rows.length ? rows : [make("li", { class: "empty" }, "The shop has no products")]);
}

function drawChurn({ value, error }) {
  const host = byId("churn");
  byId("churn-version").textContent = value ? `model ${value.model_version}` : "";
  if (error || value.churn_probability === null) {
    host.replaceChildren(make("p", { class: "sub" }, error ? error.problem?.code === "unknown_customer" ? "Nothing is known about them." : error.message : "No kept order yet, so there is nobody to lose."));
    return;
  }
  const risk = value.churn_probability;
  const [tone, word] = risk < 0.33 ? ["good", "likely to stay"] : risk < 0.66 ? ["warn", "may leave"] : ["bad", "likely to leave"];
  const change = before?.churn == null ? 0 : Math.round((risk - before.churn) * 100);
  host.replaceChildren(
    make("p", { class: `risk ${change ? "fresh" : ""}` }, make("b", {}, risk > 0 && risk < 0.01 ? "< 1 %" : `${Math.round(risk * 100)} %`), make("span", { class: `chip ${tone}` }, word),
      change ? make("span", { class: `chip ${change < 0 ? "good" : "bad"}` }, `${change > 0 ? "+" : "−"}${Math.abs(change)} points`) : null),
    meter(risk, `risk-meter ${tone}`),
    make("p", { class: "sub" }, `Chance of no order in the next ${value.horizon_days} days`),
    make("ul", { class: "reasons" }, ...value.reasons.map(reason => {
      const up = reason.contribution > 0;
      return make("li", {}, make("span", { class: up ? "up" : "down", "aria-hidden": "true" }, up ? "▲" : "▼"),
        make("span", {}, make("span", { class: "hidden" }, up ? "raises the risk: " : "lowers the risk: "), reason.text));
    })));
}

function drawHistory({ value, error }, changed) {
  const rows = (value?.orders ?? []).map(order => make("li", { class: changed?.order_id === order.order_id ? "fresh" : undefined },
    make("div", { class: "line" },
      make("time", { datetime: order.created_at }, moment.format(Date.parse(order.created_at)).replace(/:\d\d$/, "")), chip(order.status),
      make("span", { class: "amount" }, money.format(order.total_amount))),
    make("p", { class: "what" }, order.items.map(item => `${item.quantity > 1 ? `${item.quantity} × ` : ""}${item.name ?? `product ${item.product_id}`}`).join(", "))));
  byId("history").replaceChildren(...rows.length ? rows : [make("li", { class: "empty" }, error && error.problem?.code !== "unknown_customer" ? error.message : "No purchases yet")]);
}

// ---- start ----

byId("pick").addEventListener("submit", event => {
  event.preventDefault();
  byId("follow").checked = false;
  const number = byId("number").value.trim();
  show(Number(number === "" ? byId("recent").value : number));
});
byId("recent").addEventListener("change", event => { byId("follow").checked = false; show(Number(event.target.value)); });
byId("window").addEventListener("change", event => { span = Number(event.target.value); drawRevenue(); });
new ResizeObserver(() => { if (now) drawRevenue(); }).observe(byId("chart"));

async function start() {
  const wanted = new URL(location).searchParams.get("customer");
  const { value, error } = await settled(ask("/customers?limit=50"));
  if (value) {
    byId("recent").replaceChildren(...value.customers.map(customer => new Option(customerLabel(customer.user_id, customer.name), customer.user_id)));
    const first = /^[0-9]{1,18}$/.test(wanted ?? "") ? wanted : value.customers[0]?.user_id;
    if (first !== undefined) {
      if (wanted) byId("follow").checked = false;
      show(Number(first));
    }
  } else {
    byId("notice").hidden = false;
    byId("notice").textContent = error.message;
  }
  listen();
}
start();
