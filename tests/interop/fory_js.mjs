// Reads Aster's payloads with Apache Fory's JavaScript, and writes some of its own.
//
//   node fory_js.mjs BUILD < payloads.json > results.json
//
// BUILD is the path of the compiled core package. The input is an object of payloads in hexadecimal, by the fixtures' names. The output has, by the same names,
// what was read (in the JSON form that `plain` makes, or {"refused": message}) and the payload that JavaScript makes of what it read; and by names of its
// own the payloads that are written below by hand.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const { default: Fory, Type, Decimal } = createRequire(import.meta.url)(resolve(process.argv[2]));

const COLOR = { RED: "r", GREEN: "g", BLUE: "b" };
const LEVEL = { LOW: 1, HIGH: 10 };

const color = () => Type.enum("interop.Color", COLOR);
const level = () => Type.enum("interop.Level", LEVEL);
const known = (name) => Type.struct(`interop.${name}`); // of a struct that is registered already, or is being registered
const maybe = (type) => type.setNullable(true);
const { any, binary, bool, date, decimal, duration, float64, int64, list, map, set, string, timestamp } = Type;

// The fields of each struct, by the name of its type.
const STRUCTS = {
  Point: () => ({ x: int64(), y: int64() }),
  Empty: () => ({}),
  Texts: () => ({ plain: string(), many: list(string()) }),
  Numbers: () => ({ lowest: int64(), highest: int64(), many: list(int64()) }),
  Reals: () => ({ one: float64(), many: list(float64()) }),
  Truths: () => ({ yes: bool(), no: bool(), many: list(bool()) }),
  Raw: () => ({ every: binary(), none: binary(), many: list(binary()) }),
  Lists: () => ({ empty: list(int64()), nested: list(list(string())), gaps: list(maybe(int64())), points: list(known("Point")) }),
  Dicts: () => ({
    empty: map(string(), int64()),
    long: map(int64(), int64()),
    nested: map(string(), list(string())),
    gaps: map(string(), maybe(known("Point"))),
  }),
  KeyedByPoint: () => ({ names: map(known("Point"), string()) }),
  Sets: () => ({ empty: set(string()), numbers: set(int64()), frozen: set(int64()) }),
  Optionals: () => ({
    number: maybe(int64()),
    real: maybe(float64()),
    truth: maybe(bool()),
    text: maybe(string()),
    point: maybe(known("Point")),
    many: maybe(list(int64())),
    color: maybe(color()),
  }),
  Nested: () => ({ start: known("Point"), end: known("Point"), inner: known("Texts") }),
  Tree: () => ({ name: string(), children: list(known("Tree")), parent: maybe(known("Tree")) }),
  Enums: () => ({ color: color(), level: level(), colors: list(color()), by_level: map(level(), string()) }),
  Days: () => ({ one: date(), many: list(date()) }),
  Spans: () => ({ one: duration(), many: list(duration()) }),
  Instants: () => ({ one: timestamp(), many: list(timestamp()) }),
  Money: () => ({ one: decimal(), many: list(decimal()) }),
  AlikeTuples: () => ({ pair: list(int64()), many: list(string()) }),
  MixedTuples: () => ({ mixed: list(any()), empty: any() }),
  Ids: () => ({ one: any(), many: list(any()) }),
  Clocks: () => ({ one: any(), many: list(any()) }),
  Unions: () => ({ number: any(), text: any(), point: maybe(any()), color: any(), many: list(maybe(any())), keyed: map(any(), any()) }),
  Address: () => ({ line_1: string(), _hidden: int64() }),
  Choice: () => ({ value: any() }),
  Order: () => ({ id: int64(), name: string(), weight: float64() }),
  Named: () => ({ displayName: string(), zipCode: int64() }), // as is usual in JavaScript
};

const NAMES = ["a", "with_digit_9", "_private", "camelCase", "URLPath", "a_name_that_is_so_long_that_its_size_takes_a_byte_of_its_own"];
for (let index = 0; index < 26; index += 1) NAMES.push(`f${String(index).padStart(2, "0")}`);

function makeFory() {
  const fory = new Fory({ compatible: true, ref: false });
  // Aster's own extension types: JavaScript has to be told how their content is written.
  registerExtension(fory, "uuid", {
    write: (context, value) => context.writeBuffer(Buffer.from(value.hex, "hex")),
    read: (context, value) => (value.hex = Buffer.from(context.readBuffer(16)).toString("hex")),
  });
  registerExtension(fory, "time", {
    write: (context, value) => context.writeVarInt64(value.number),
    read: (context, value) => (value.number = context.readVarInt64()),
  });
  fory.register(color());
  fory.register(level());
  // With a class of its own, so that a value tells its type where none is declared.
  class Point {}
  Type.struct("interop.Point", STRUCTS.Point())(Point);
  fory.register(Point);
  return fory;
}

function registerExtension(fory, name, serializer) {
  class Extension {}
  Type.ext({ namespace: "_aster", typeName: name })(Extension);
  fory.register(Extension, serializer);
}

const registry = new Map();

function registered(name) {
  if (!registry.has(name)) registry.set(name, registerIn(makeFory(), name));
  return registry.get(name);
}

// One Fory for each struct: what it cannot do with one must not spoil the others.
function registerIn(fory, name) {
  if (name === "Names") {
    const fields = Object.fromEntries(NAMES.map((field) => [field, int64()]));
    return fory.register(Type.struct({ namespace: "interop.names_2.deeply", typeName: "HTTPName2" }, fields));
  }
  if (name === "Nested") fory.register(Type.struct("interop.Texts", STRUCTS.Texts()));
  return fory.register(Type.struct(`interop.${name}`, STRUCTS[name]()));
}

// Several fixtures may be of one struct, such as "optionals present", or of a version of it that JavaScript does not know, such as "larger order".
function structOf(fixture) {
  if (fixture.endsWith("order")) return "Order";
  if (fixture.endsWith("address")) return "Address";
  if (fixture.startsWith("optionals")) return "Optionals";
  if (fixture.startsWith("named")) return "Named";
  if (fixture.startsWith("instants")) return "Instants";
  return fixture.replace(/(^| )[a-z]/g, (letter) => letter.trim().toUpperCase());
}

function plain(value) {
  if (value === null || value === undefined) return null;
  if (typeof value === "bigint") return { bigint: String(value) };
  if (typeof value === "number") return Number.isFinite(value) && !Object.is(value, -0) ? value : { number: Object.is(value, -0) ? "-0" : String(value) };
  if (typeof value !== "object") return value;
  if (value instanceof Date) return { date: Number.isNaN(value.getTime()) ? "invalid" : value.toISOString() };
  if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString("hex") };
  if (value instanceof Decimal) return { decimal: [String(value.unscaledValue), value.scale] };
  if (value instanceof Set) return { set: [...value].map(plain) };
  if (value instanceof Map) return { map: [...value].map((pair) => pair.map(plain)) };
  if (Array.isArray(value)) return value.map(plain);
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, plain(item)]));
}

function attempted(action) {
  try {
    return action();
  } catch (error) {
    return { refused: String(error.message).split("\n")[0] };
  }
}

function written(struct, value) {
  return attempted(() => Buffer.from(registered(struct).serialize(value)).toString("hex"));
}

// What a program in JavaScript would write by itself.
const OWN = {
  "plain numbers for int64": ["Numbers", { lowest: -5, highest: Number.MAX_SAFE_INTEGER, many: [0, -1, 2n ** 63n - 1n, -(2n ** 63n)] }],
  "texts of every width": ["Texts", { plain: "abc", many: ["", "\u00e9\u00ff", "\u20ac", "\u{1d11e}", "x".repeat(40)] }],
  "whole numbers for float64": ["Reals", { one: 2, many: [-0, NaN, -Infinity, 0.1] }],
  "an older order": ["Order", { id: 7, name: "seven", weight: 2.5 }],
  "fields in camel case": ["Named", { displayName: "Ada", zipCode: 1234 }],
  "absent and missing": ["Optionals", { number: null, point: { x: 1, y: 2 }, color: "g" }],
  "a tree": ["Tree", { name: "root", children: [{ name: "leaf", children: [] }], parent: null }],
  "dates at noon": ["Days", { one: new Date("2024-02-29T12:00:00Z"), many: [new Date("1969-12-31T12:00:00Z")] }],
  "dates with milliseconds": ["Instants", { one: new Date("2024-02-29T10:34:56.789Z"), many: [new Date(-1)] }],
  "milliseconds for a duration": ["Spans", { one: -1.5, many: [0, 86400000.25] }],
  "sums": ["Money", { one: new Decimal(999n, 2), many: [new Decimal(2n ** 70n, 0), new Decimal(1, -5)] }],
  "values that tell their own types": ["Unions", { number: 5, text: 2 ** 40, point: null, color: 7n, many: [1, "a", null], keyed: new Map([["k", true]]) }],
  "a fraction that tells its own type": ["Choice", { value: 0.1 }],
  "a number that tells its own type": ["Choice", { value: 5 }],
  "bytes that tell their own type": ["Choice", { value: new Uint8Array([1, 2]) }],
};

const payloads = JSON.parse(readFileSync(0, "utf8"));
const results = { node: process.version, reads: {}, echoes: {}, own: {} };
for (const [fixture, hex] of Object.entries(payloads)) {
  const struct = structOf(fixture);
  let value;
  results.reads[fixture] = attempted(() => {
    value = registered(struct).deserialize(Buffer.from(hex, "hex"));
    return plain(value);
  });
  if (value !== undefined) results.echoes[fixture] = written(struct, value);
}
for (const [name, [struct, value]] of Object.entries(OWN)) results.own[name] = written(struct, value);
process.stdout.write(`${JSON.stringify(results, null, 1)}\n`);
