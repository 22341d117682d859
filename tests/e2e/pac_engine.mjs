// Evaluates files for the automatic configuration of browsers; see pac_engine.py.
//
// A line of JSON in: {"pac": text, "asks": [[url, host], ...], "lint": true}, one out: what
// eslint finds as ECMAScript 3, and the answers of two engines: pac-resolver's, and a bare one
// that has none of the functions that came after ECMAScript 3, nor those of PAC.

import { createInterface } from "node:readline";
import vm from "node:vm";

import js from "@eslint/js";
import { getQuickJS } from "@tootallnate/quickjs-emscripten";
import { Linter } from "eslint";
import { createPacResolver } from "pac-resolver";

const rules = {
  ...js.configs.recommended,
  languageOptions: { ecmaVersion: 3, sourceType: "script" },
};

// What ECMAScript 3 (ECMA-262, 3rd edition, chapter 15) has, besides Math, Date and the values.
// "flags" is younger, but node's own split and replace need it.
const KEPT = {
  Array: "concat join pop push reverse shift slice sort splice toString unshift",
  Function: "apply call toString",
  Number: "toFixed toString valueOf",
  Object: "hasOwnProperty toString valueOf",
  RegExp: "exec test toString global ignoreCase multiline flags",
  String: `charAt charCodeAt concat indexOf lastIndexOf match replace search slice split
    substring toLowerCase toString toUpperCase valueOf`,
};
const GLOBALS = new Set([...Object.keys(KEPT), "Date", "Math", "NaN", "Infinity", "undefined"]
  .concat("isFinite", "isNaN", "parseFloat", "parseInt"));

function strip(object, kept) {
  for (const name of Object.getOwnPropertyNames(object)) {
    if (!kept.has(name) && Object.getOwnPropertyDescriptor(object, name).configurable) {
      delete object[name];
    }
  }
}

function bare(pac) {
  const context = vm.createContext({});
  const inner = vm.runInContext("this", context);
  for (const [type, names] of Object.entries(KEPT)) {
    strip(inner[type].prototype, new Set(["constructor", ...names.split(/\s+/)]));
    strip(inner[type], new Set(["prototype"]));
  }
  strip(inner, GLOBALS);
  vm.runInContext(pac, context, { timeout: 5000 });
  const call = new vm.Script("FindProxyForURL(arguments_[0], arguments_[1])");
  return (url, host) => {
    context.arguments_ = [url, host];
    return call.runInContext(context, { timeout: 5000 });
  };
}

const quickjs = await getQuickJS();
for await (const line of createInterface({ input: process.stdin })) {
  const { pac, asks, lint } = JSON.parse(line);
  let answer;
  try {
    const faults = (lint ? new Linter().verify(pac, [rules]) : [])
      .map((found) => `${found.line}: ${found.message}`)
      .filter((text) => !text.includes("'FindProxyForURL' is defined but never used"));
    const resolver = createPacResolver(quickjs, pac);
    const find = bare(pac);
    const verdicts = [];
    for (const [url, host] of asks) {
      verdicts.push([await resolver(url, host), find(url, host)]);
    }
    answer = { faults, verdicts };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
