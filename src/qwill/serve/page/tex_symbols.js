// What TeX's commands draw. Tables only; tex.js reads them.

const table = (text) =>
  Object.fromEntries(
    text
      .trim()
      .split(/\s+/)
      .map((pair) => [pair.slice(0, pair.indexOf(":")), pair.slice(pair.indexOf(":") + 1)]),
  );

// Letters: set in italics when lower case (as TeX does), upright when upper case.
export const LETTERS = table(`
alpha:α beta:β gamma:γ delta:δ epsilon:ϵ varepsilon:ε zeta:ζ eta:η theta:θ vartheta:ϑ iota:ι kappa:κ varkappa:ϰ lambda:λ mu:μ nu:ν xi:ξ
omicron:ο pi:π varpi:ϖ rho:ρ varrho:ϱ sigma:σ varsigma:ς tau:τ upsilon:υ phi:ϕ varphi:φ chi:χ psi:ψ omega:ω digamma:ϝ
Gamma:Γ Delta:Δ Theta:Θ Lambda:Λ Xi:Ξ Pi:Π Sigma:Σ Upsilon:Υ Phi:Φ Psi:Ψ Omega:Ω
ell:ℓ hbar:ℏ hslash:ℏ imath:ı jmath:ȷ wp:℘ Re:ℜ Im:ℑ aleph:ℵ beth:ℶ gimel:ℷ partial:∂ nabla:∇ infty:∞ emptyset:∅ varnothing:∅ complement:∁
angle:∠ measuredangle:∡ triangle:△ square:□ Box:□ blacksquare:■ diamond:⋄ Diamond:◇ top:⊤ bot:⊥ degree:° circledS:Ⓢ
clubsuit:♣ diamondsuit:♢ heartsuit:♡ spadesuit:♠ flat:♭ natural:♮ sharp:♯ checkmark:✓ S:§ P:¶ pounds:£ dag:† ddag:‡ copyright:© eth:ð Finv:Ⅎ
forall:∀ exists:∃ nexists:∄ qed:∎ blacktriangle:▲ bigstar:★ backslash:\\ prime:′ backprime:‵ surd:√ R:ℝ N:ℕ Z:ℤ Q:ℚ C:ℂ
`);

export const OPERATORS = table(`
le:≤ leq:≤ leqslant:⩽ ge:≥ geq:≥ geqslant:⩾ lt:< gt:> ne:≠ neq:≠ ll:≪ gg:≫ lll:⋘ ggg:⋙ equiv:≡ sim:∼ simeq:≃ approx:≈ cong:≅ propto:∝ varpropto:∝ asymp:≍ doteq:≐ triangleq:≜
coloneqq:≔ eqqcolon:≕ prec:≺ succ:≻ preceq:⪯ succeq:⪰ lesssim:≲ gtrsim:≳ lessgtr:≶ in:∈ notin:∉ ni:∋ owns:∋ subset:⊂ supset:⊃ subseteq:⊆ supseteq:⊇ subsetneq:⊊ supsetneq:⊋ nsubseteq:⊈
sqsubset:⊏ sqsupset:⊐ sqsubseteq:⊑ sqsupseteq:⊒ vdash:⊢ dashv:⊣ models:⊨ vDash:⊨ Vdash:⊩ perp:⊥ parallel:∥ nparallel:∦ mid:∣ nmid:∤ smile:⌣ frown:⌢ bowtie:⋈ approxeq:≊ backsim:∽ between:≬
pm:± mp:∓ times:× div:÷ cdot:⋅ ast:∗ star:⋆ circ:∘ bullet:• oplus:⊕ ominus:⊖ otimes:⊗ oslash:⊘ odot:⊙ boxplus:⊞ boxtimes:⊠ wedge:∧ land:∧ vee:∨ lor:∨ cap:∩ cup:∪ sqcap:⊓ sqcup:⊔ uplus:⊎ setminus:∖ smallsetminus:∖
wr:≀ amalg:⨿ dagger:† ddagger:‡ ltimes:⋉ rtimes:⋊ lnot:¬ neg:¬ bigcirc:◯ triangleleft:◁ triangleright:▷ therefore:∴ because:∵
to:→ rightarrow:→ gets:← leftarrow:← leftrightarrow:↔ Rightarrow:⇒ Leftarrow:⇐ Leftrightarrow:⇔ implies:⟹ impliedby:⟸ iff:⟺ mapsto:↦ longmapsto:⟼ longrightarrow:⟶ longleftarrow:⟵ longleftrightarrow:⟷ Longrightarrow:⟹
Longleftarrow:⟸ Longleftrightarrow:⟺ uparrow:↑ downarrow:↓ updownarrow:↕ Uparrow:⇑ Downarrow:⇓ Updownarrow:⇕ nearrow:↗ searrow:↘ swarrow:↙ nwarrow:↖ hookrightarrow:↪ hookleftarrow:↩ rightharpoonup:⇀ rightharpoondown:⇁
leftharpoonup:↼ leftharpoondown:↽ rightleftharpoons:⇌ leftrightharpoons:⇋ rightrightarrows:⇉ leftleftarrows:⇇ twoheadrightarrow:↠ rightarrowtail:↣ leadsto:⇝ rightsquigarrow:⇝ nrightarrow:↛ nleftarrow:↚ nRightarrow:⇏
ldots:… dots:… dotsc:… dotso:… cdots:⋯ dotsb:⋯ dotsm:⋯ dotsi:⋯ vdots:⋮ ddots:⋱ colon:: And:&
`);

// Set large, with limits above and below in display style.
export const BIG = table(`
sum:∑ prod:∏ coprod:∐ bigcup:⋃ bigcap:⋂ bigvee:⋁ bigwedge:⋀ bigoplus:⨁ bigotimes:⨂ bigodot:⨀ biguplus:⨄ bigsqcup:⨆
`);

export const INTEGRALS = table(`int:∫ iint:∬ iiint:∭ iiiint:⨌ oint:∮ oiint:∯ oiiint:∰ intop:∫`);

export const FUNCTIONS = new Set(
  "arccos arcsin arctan arg cos cosh cot coth csc deg dim exp hom ker lg ln log sec sin sinh tan tanh".split(" "),
);
// Their subscripts stand below in display style.
export const LIMITS = table(
  `
lim:lim max:max min:min sup:sup inf:inf det:det gcd:gcd Pr:Pr limsup:lim\u2009sup liminf:lim\u2009inf argmax:arg\u2009max argmin:arg\u2009min injlim:inj\u2009lim projlim:proj\u2009lim
`.replaceAll("\u2009", "~"),
);
for (const name of Object.keys(LIMITS)) LIMITS[name] = LIMITS[name].replace("~", "\u2009");

export const DELIMITERS = {
  ...table(`langle:⟨ rangle:⟩ lfloor:⌊ rfloor:⌋ lceil:⌈ rceil:⌉ lvert:| rvert:| vert:| lVert:‖ rVert:‖ Vert:‖ lbrace:{ rbrace:} lbrack:[ rbrack:]
    lgroup:⟮ rgroup:⟯ lmoustache:⎰ rmoustache:⎱ ulcorner:⌜ urcorner:⌝ llcorner:⌞ lrcorner:⌟ uparrow:↑ downarrow:↓ updownarrow:↕ Uparrow:⇑ Downarrow:⇓ backslash:\\`),
  "{": "{",
  "}": "}",
  "|": "‖",
};

export const ACCENTS = table(`
hat:^ widehat:^ bar:¯ overline:‾ vec:→ tilde:~ widetilde:~ dot:˙ ddot:¨ dddot:⃛ acute:´ grave:\` breve:˘ check:ˇ widecheck:ˇ mathring:˚
overrightarrow:→ overleftarrow:← overleftrightarrow:↔ overbrace:⏞ overbracket:⎴ overparen:⏜
`);
export const UNDER_ACCENTS = table(`underline:_ underbrace:⏟ underbracket:⎵ underrightarrow:→ underleftarrow:←`);
export const STRETCHED = new Set(
  "widehat overline widetilde overrightarrow overleftarrow overleftrightarrow overbrace overbracket overparen underline underbrace underbracket underrightarrow underleftarrow".split(
    " ",
  ),
);

export const SPACES = {
  ",": 0.1667,
  ":": 0.2222,
  ">": 0.2222,
  ";": 0.2778,
  "!": -0.1667,
  " ": 0.25,
  "\n": 0.25,
  quad: 1,
  qquad: 2,
  enspace: 0.5,
  enskip: 0.5,
  thinspace: 0.1667,
  medspace: 0.2222,
  thickspace: 0.2778,
  negthinspace: -0.1667,
  space: 0.25,
  nobreakspace: 0.25,
};

export const NEGATED = {
  "=": "≠",
  "<": "≮",
  ">": "≯",
  "≤": "≰",
  "≥": "≱",
  "∈": "∉",
  "∋": "∌",
  "⊂": "⊄",
  "⊃": "⊅",
  "⊆": "⊈",
  "⊇": "⊉",
  "≡": "≢",
  "∼": "≁",
  "≈": "≉",
  "≅": "≇",
  "∃": "∄",
  "∣": "∤",
  "∥": "∦",
  "→": "↛",
  "⇒": "⇏",
  "⇔": "⇎",
  "⊢": "⊬",
  "⊨": "⊭",
};

// MathML Core has no mathvariant but "normal", so alphabets are their Unicode letters.
const HOLES = {
  script: { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ", e: "ℯ", g: "ℊ", o: "ℴ" },
  fraktur: { C: "ℭ", H: "ℌ", I: "ℑ", R: "ℜ", Z: "ℨ" },
  double: { C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ" },
};
const STARTS = {
  bold: { A: 0x1d400, a: 0x1d41a, 0: 0x1d7ce, Α: 0x1d6a8, α: 0x1d6c2 },
  boldItalic: { A: 0x1d468, a: 0x1d482, 0: 0x1d7ce, Α: 0x1d71c, α: 0x1d736 },
  script: { A: 0x1d49c, a: 0x1d4b6 },
  fraktur: { A: 0x1d504, a: 0x1d51e },
  double: { A: 0x1d538, a: 0x1d552, 0: 0x1d7d8 },
  sans: { A: 0x1d5a0, a: 0x1d5ba, 0: 0x1d7e2 },
  mono: { A: 0x1d670, a: 0x1d68a, 0: 0x1d7f6 },
};
export const ALPHABETS = {
  mathbf: "bold",
  bf: "bold",
  boldsymbol: "boldItalic",
  bm: "boldItalic",
  pmb: "boldItalic",
  mathcal: "script",
  mathscr: "script",
  cal: "script",
  mathfrak: "fraktur",
  frak: "fraktur",
  mathbb: "double",
  Bbb: "double",
  mathsf: "sans",
  sf: "sans",
  mathtt: "mono",
  tt: "mono",
  mathrm: "upright",
  rm: "upright",
  mathnormal: null,
  mathit: null,
  it: null,
};

/** `text` in an alphabet; characters which it lacks stay. */
export function inAlphabet(text, alphabet) {
  const starts = STARTS[alphabet];
  if (!starts) return text;
  return [...text]
    .map((c) => {
      if (HOLES[alphabet]?.[c]) return HOLES[alphabet][c];
      for (const [first, last] of ["AZ", "az", "09", "ΑΩ", "αω"]) {
        if (c >= first && c <= last && starts[first])
          return String.fromCodePoint(starts[first] + c.codePointAt(0) - first.codePointAt(0));
      }
      return c;
    })
    .join("");
}
