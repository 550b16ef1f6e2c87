"use strict";

// Numbers as people read them.

const NOTHING = "–";

function digits(value, most) {
  return value.toLocaleString("en-US", { maximumSignificantDigits: most, useGrouping: true });
}

/** A time in seconds: three digits, in the unit that suits it. */
function seconds(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value === 0) return "0 ms";
  if (value < 0.9995) return `${digits(value * 1000, value < 0.001 ? 2 : 3)} ms`;
  if (value < 120) return `${digits(value, 3)} s`;
  if (value < 7200) return `${digits(value / 60, 2)} min`;
  if (value < 172800) return `${digits(value / 3600, 2)} h`;
  return `${digits(value / 86400, 3)} days`;
}

/** So many a second. */
function rate(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value === 0) return "0/s";
  if (value < 0.1) return `${digits(value, 1)}/s`;
  return `${value < 10 ? value.toFixed(1) : digits(Math.round(value), 6)}/s`;
}

function percent(value) {
  if (value === null || value === undefined) return NOTHING;
  return `${value > 0 && value < 0.01 ? digits(value * 100, 1) : Math.round(value * 100)} %`;
}

function bytes(value) {
  if (value < 1024) return `${value} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let unit = -1;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${digits(value, 3)} ${units[unit]}`;
}

/** The time of the day where the viewer is, of a Unix time in seconds. */
function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

function ago(passed) {
  if (passed < 2) return "now";
  if (passed < 120) return `${Math.round(passed)} s ago`;
  if (passed < 7200) return `${Math.round(passed / 60)} min ago`;
  if (passed < 172800) return `${Math.round(passed / 3600)} h ago`;
  return `${Math.round(passed / 86400)} days ago`;
}
