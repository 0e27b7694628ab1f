// Light syntax colouring: a line and the state left by the line before → pieces [{kind, text}] and the next state.
// Line by line, so that a streamed block is coloured once as it grows. Kinds: keyword, string, number, comment, name, plain.

const words = (text) => new Set(text.split(" "));
const C_LIKE = { line: ["//"], block: ["/*", "*/"], quotes: ['"', "'"] };
const HASH = { line: ["#"], quotes: ['"', "'"] };
const JS = words(
  "async await break case catch class const continue debugger default delete do else enum export extends false finally for from function get if implements import in instanceof interface let new null of private protected public readonly return set static super switch this throw true try type typeof undefined var void while yield as",
);
const C = words(
  "alignas auto bool break case catch char class const constexpr continue default delete do double else enum explicit export extern false final float for friend goto if inline int long mutable namespace new noexcept nullptr operator override private protected public register return short signed sizeof static static_cast struct switch template this throw true try typedef typename union unsigned using virtual void volatile while NULL size_t",
);

const LANGUAGES = {
  python: {
    ...HASH,
    long: ['"""', "'''"],
    words: words(
      "and as assert async await break case class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return self True try while with yield",
    ),
  },
  javascript: { ...C_LIKE, long: ["`"], words: JS },
  c: { ...C_LIKE, words: C },
  java: {
    ...C_LIKE,
    words: words(
      "abstract as bool boolean break byte case catch char class companion const continue data default do double else enum extends false final finally float for foreach fun func if implements import in instanceof int interface internal is let long namespace new null object override package private protected public readonly return sealed short static string struct super suspend switch this throw throws true try using val var virtual void volatile when while yield",
    ),
  },
  go: {
    ...C_LIKE,
    long: ["`"],
    words: words(
      "break case chan const continue default defer else fallthrough false for func go goto if import interface map nil package range return select struct switch true type var string int error bool byte float64",
    ),
  },
  rust: {
    ...C_LIKE,
    quotes: ['"'],
    words: words(
      "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while",
    ),
  },
  shell: {
    ...HASH,
    words: words(
      "if then else elif fi for while until do done case esac in function return local export set unset echo cd sudo exit source alias",
    ),
  },
  ruby: {
    ...HASH,
    words: words(
      "and begin break case class def do else elsif end ensure false for if in module next nil not or raise require rescue return self super then true unless until when while yield",
    ),
  },
  sql: {
    line: ["--"],
    block: ["/*", "*/"],
    quotes: ["'", '"'],
    anyCase: true,
    words: words(
      "select from where and or not null is in as on join left right inner outer full group by order having limit offset insert into values update set delete create table index view drop alter add primary key foreign references unique default case when then else end distinct union all exists between like with count sum avg min max",
    ),
  },
  css: { block: ["/*", "*/"], quotes: ['"', "'"], words: words("important media supports import from to") },
  yaml: { ...HASH, words: words("true false null yes no on off") },
  json: { quotes: ['"'], words: words("true false null") },
  markup: { block: ["<!--", "-->"], quotes: ['"'], tags: true, words: new Set() },
  lua: {
    line: ["--"],
    quotes: ['"', "'"],
    words: words(
      "and break do else elseif end false for function goto if in local nil not or repeat return then true until while",
    ),
  },
};

const ALIASES = {
  py: "python", python3: "python", js: "javascript", jsx: "javascript", ts: "javascript", tsx: "javascript", typescript: "javascript",
  mjs: "javascript", h: "c", cc: "c", cpp: "c", "c++": "c", cxx: "c", hpp: "c", cuda: "c", cu: "c", objc: "c", cs: "java", csharp: "java",
  kotlin: "java", kt: "java", swift: "java", scala: "java", dart: "java", php: "java", golang: "go", rs: "rust", sh: "shell", bash: "shell",
  zsh: "shell", console: "shell", dockerfile: "shell", makefile: "shell", make: "shell", toml: "yaml", ini: "yaml", yml: "yaml", rb: "ruby", r: "ruby",
  perl: "ruby", html: "markup", xml: "markup", svg: "markup", vue: "markup", jsonc: "json", json5: "json", postgresql: "sql", mysql: "sql",
  sqlite: "sql", scss: "css", less: "css",
}; // prettier-ignore

/** The language of a fence's word, or null where there is nothing to colour. */
export function language(name) {
  const lower = name.toLowerCase();
  const known = Object.hasOwn(ALIASES, lower) ? ALIASES[lower] : lower;
  return Object.hasOwn(LANGUAGES, known) ? LANGUAGES[known] : null;
}

/** Pieces of one line. `state` is null, or the mark that closes what an earlier line opened; so is the second result. */
export function colourLine(line, lang, state = null) {
  const pieces = [];
  const add = (kind, text) => {
    if (!text) return;
    if (pieces.at(-1)?.kind === kind) pieces.at(-1).text += text;
    else pieces.push({ kind, text });
  };
  let i = 0;
  if (state) {
    const end = line.indexOf(state.close);
    if (end < 0) return [[{ kind: state.kind, text: line }], state];
    i = end + state.close.length;
    add(state.kind, line.slice(0, i));
  }
  while (i < line.length) {
    const rest = line.slice(i, i + 400);
    const long = lang.long?.find((mark) => rest.startsWith(mark)) ?? null;
    const opens = lang.block && rest.startsWith(lang.block[0]);
    if (long || opens) {
      const [open, close] = long ? [long, long] : lang.block;
      const kind = long ? "string" : "comment";
      const end = line.indexOf(close, i + open.length);
      if (end < 0) {
        add(kind, line.slice(i));
        return [pieces, { close, kind }];
      }
      add(kind, line.slice(i, end + close.length));
      i = end + close.length;
      continue;
    }
    if (lang.line?.some((mark) => rest.startsWith(mark)) && (i === 0 || lang.line[0] !== "#" || /\s/.test(line[i - 1]))) {
      add("comment", line.slice(i));
      break;
    }
    if (lang.quotes.includes(line[i])) {
      let end = i + 1;
      while (end < line.length && line[end] !== line[i]) end += line[end] === "\\" ? 2 : 1;
      add("string", line.slice(i, end + 1));
      i = end + 1;
      continue;
    }
    const tag = lang.tags ? /^<\/?[A-Za-z][\w:-]*|^\/?>/.exec(rest) : null;
    const word = tag ?? /^[\p{L}_$][\p{L}\p{N}_$]*/u.exec(rest);
    const number = word ? null : /^(?:0[xX][\da-fA-F_]+|0[bB][01_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\w*/.exec(rest);
    const text = (word ?? number)?.[0] ?? line[i];
    if (tag) add("keyword", text);
    else if (word) {
      const key = lang.anyCase ? text.toLowerCase() : text;
      add(lang.words.has(key) ? "keyword" : line[i + text.length] === "(" ? "name" : "plain", text);
    } else add(number ? "number" : "plain", text);
    i += text.length;
  }
  return [pieces, null];
}
