// --- data: an index that is opened at once, and chunks of records that are opened when one of them is looked at.
// Everything shown is text of a data set or a model: it reaches the page as text nodes alone, never as HTML.
const KEPT = 48;   // chunks that stay open

function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function opened(element) {
  const packed = new Blob([bytesOf(element.textContent)]).stream();
  return new Response(packed.pipeThrough(new DecompressionStream("deflate"))).json();
}

// What can be odd about an answer: its bits, from the lowest on.
const MARKS = [
  "no answer could be read",
  "cut off at its token limit",
  "no answer came: the request failed",
  "not in the format asked for",
  "right only where it is read leniently",
  "the judge disagrees with the gold answer",
];

const data = await opened(document.querySelector("script.index"));
const blocks = { test: document.querySelectorAll("script.test"), train: document.querySelectorAll("script.train") };
const recent = new Map();   // the chunk that was looked at last is the last

function chunk(split, k) {
  const key = `${split} ${k}`, found = recent.get(key) ?? opened(blocks[split][k]);
  recent.delete(key);
  recent.set(key, found);
  if (recent.size > KEPT) recent.delete(recent.keys().next().value);
  return found;
}

const chunkOf = (split, i) => data[split].starts.findLastIndex((start) => start <= i);

async function record(split, i) {
  const k = chunkOf(split, i);
  return (await chunk(split, k))[i - data[split].starts[k]];
}

const valueOf = (number) => number === null ? null : data.values[number];
const levelOf = (split, i) => valueOf(data[split].hard[i]);
const goldOf = (split, i) => valueOf(data[split].gold[i]);
const answerOf = (split, i, arm) => valueOf(data[split].arms[arm].answer[i]);
const gradeOf = (i, arm) => data.test.arms[arm].value[i];
const tokensOf = (i, arm) => data.test.arms[arm].tokens[i];
const isMarked = (i, arm, k) => (data.test.arms[arm].marks[i] & (1 << k)) !== 0;
const marksOf = (i, arm) => MARKS.filter((text, k) => isMarked(i, arm, k));
const promptOf = ([first, rest], question) => `${data.prompts[first]}\n\n${rest.replace("\0", () => question)}`;

const arms = Object.keys(data.test.arms), trained = Object.keys(data.trained);
const sizeOf = (split) => data[split].id.length;
const everything = (split) => [...data[split].id.keys()];
const levels = [...new Set([...data.test.hard, ...data.train.hard])].filter((n) => n !== null).map(valueOf).sort(new Intl.Collator("en", { numeric: true }).compare);
const reasons = [...new Set(trained.flatMap((arm) => data.train.arms[arm].reason))].filter((n) => n !== null).map(valueOf);
const odd = MARKS.map((text, k) => [text, k]).filter(([, k]) => arms.some((arm) => data.test.arms[arm].marks.some((bits) => bits & (1 << k))));
