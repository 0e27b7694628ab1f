"""datatrove's side of words_parity.py: words and sentences of every text of a file.

requirements: datatrove==0.10.1 spacy==3.8.18 jieba==0.42.1
run by the benchmark: python datatrove_words.py TEXTS.jsonl SAID.jsonl LANGUAGE
"""

import json
import sys

from datatrove.utils.text import split_into_sentences
from datatrove.utils.word_tokenizers import load_word_tokenizer

texts, target, language = sys.argv[1:4]
tokenizer = load_word_tokenizer(language)
with open(texts, encoding="utf-8") as lines, open(target, "w", encoding="utf-8") as out:
    for line in lines:
        text = json.loads(line)
        said = [tokenizer.word_tokenize(text), len(split_into_sentences(text, language))]
        out.write(json.dumps(said) + "\n")
