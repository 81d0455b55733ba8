// Where two answers differ: the words outside their longest common subsequence, as in ROUGE-L.

const segmenter = new Intl.Segmenter(undefined, { granularity: "word" }); // also where words are not spaced

/** Words of a text in lower case, with where they begin and end in it. */
export const words = (text) =>
  [...segmenter.segment(text)]
    .filter((piece) => piece.isWordLike)
    .map(({ segment, index }) => ({ word: segment.toLowerCase(), start: index, end: index + segment.length }));

/** Which words of `said` are not in the longest common subsequence with `reference`, as [start, end] pairs. */
export function differing(said, reference) {
  const [a, b] = [words(said), words(reference)];
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i][j] = a[i].word === b[j].word ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  const alone = [];
  for (let i = 0, j = 0; i < a.length; ) {
    if (j < b.length && a[i].word === b[j].word) { i++; j++; }
    else if (j < b.length && length[i][j + 1] >= length[i + 1][j]) j++;
    else alone.push([a[i].start, a[i++].end]);
  }
  return alone;
}

/** For each token, whether it holds a part of a differing word. Tokens must join to the text they were compared by. */
export function marks(tokens, ranges) {
  let start = 0;
  return tokens.map(({ text }) => {
    const [from, to] = [start, (start += text.length)];
    return ranges.some(([first, last]) => first < to && last > from);
  });
}
