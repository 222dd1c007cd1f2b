"""Whether a text asks for something or answers: by its punctuation and the words that its sentences begin with.

Questions, orders and wishes are known in English, German, French, Spanish, Portuguese, Chinese, Japanese and Hindi.
"""

from __future__ import annotations

import re
from collections.abc import Set

__all__ = ["asks", "first_words", "is_english", "opens_as_answer", "reports", "sentences_of"]

_BREAK = re.compile(r"(?<=[.!?…])[\"'”’)]?\s+|(?<=[。！？।])|\n+")
_LEAD = " \t\"'“”‘’«»„「」『』()[]*_#>-–—•·:,.¿¡"
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

_ORDERS = """
add advise analyse analyze answer argue arrange assess assume brainstorm break bring build calculate categorise
categorize change check choose cite clarify classify clean compare compile complete compose compute consider construct
continue convert convey correct count craft create critique curate debate debug decide decode define demonstrate derive
describe design detail determine develop discover discuss distinguish draft draw edit elaborate enter estimate evaluate
examine expand explain explore express extract figure fill find finish fix format formulate generate get give go guess
guide help highlight identify illustrate imagine implement improve include indicate inform instruct introduce invent
investigate justify label let list look make map match mention name narrate notify offer order organise organize outline
paint paraphrase perform pick plan point pose predict prepare present pretend produce proofread propose prove provide
put rank rate read recite recommend recount rephrase reply report research respond restate review revise reword rewrite
roleplay schedule search select share shorten show simplify sketch solve sort specify state structure submit suggest
summarise summarize suppose talk teach tell think transform translate use verify walk work write
erklär erkläre erklären beschreib beschreibe beschreiben nenne nennen gib geben zeig zeige zeigen schreib schreibe
schreiben liste listen sag sage sagen erzähl erzähle erzählen hilf helfen mach mache machen erstelle erstellen vergleich
vergleiche vergleichen fass fasse fassen übersetz übersetze übersetzen finde finden schlag schlage schlagen entwirf
verfasse verfassen erläutere erläutern ordne ordnen klassifiziere berechne berechnen löse lösen verbessere korrigiere
formuliere wähle wählen beantworte begründe stell stelle stellen verrate führe entwickle skizziere zähle bestimme
analysiere bewerte empfiehl empfehlen
explique expliquez décris décrivez donne donnez dis dites écris écrivez rédige rédigez listez énumère énumérez
montre montrez raconte racontez aide aidez compare comparez résume résumez traduis traduisez crée créez trouve trouvez
classe classez cite citez nomme nommez indique indiquez fais faites détaille détaillez présente présentez veuillez
propose proposez
explica explícame explícale explíqueme describe descríbeme describa da dame dime diga escribe escríbeme escriba redacta
redacte lista enumera enumere muestra muéstrame muestre cuenta cuéntame ayuda ayúdame ayúdeme propón sugiere sugiera
compara resume resuma traduce traduzca crea cree encuentra clasifica clasifique nombra indica indique haz haga menciona
enséñame detalla
descreva dê dá-me diz diz-me escreva escreve redija liste mostre mostra-me conte conta-me ajude ajuda-me proponha sugira
traduza crie encontre classifique nomeie faça ensine ensina-me apresente detalhe
"""
_ORDER_WORDS = frozenset(_ORDERS.split())
"""Verbs in the form in which an order to an assistant begins."""

_POLITE = frozenset(
    "please kindly now then also so and first just next finally simply bitte doch mal svp por favor".split()  # noqa: SIM905
)
_QUESTION = re.compile(
    r"(?:how|what|which|who|whom|whose|when|where|why) (?:\w+ )?(?:is|are|was|were|do|does|did|can|could|will|would|"
    r"should|to|has|have|had|many|much|about)\b|what(?:'s|’s|s)\b|(?:is|are|was|were|do|does|did|can|could|will|would|"
    r"should|has|have|may|might) (?:i|you|we|they|he|she|it|there|the|a|an|my|your|this|that|these|those)\b|"
    r"(?:wie|was|wer|wo|wann|warum|wieso|weshalb|welche[rsnm]?|woher|wohin|wozu|womit|wem|wen|kannst|könntest|könnten|"
    r"können|comment|pourquoi|quand|quel(?:le)?s?|combien|qu'est-ce|est-ce|peux-tu|pouvez-vous|pourriez-vous|"
    r"pourrais-tu|cómo|qué|quién|quiénes|cuándo|cuánto|cuántos|cuántas|cuál|cuáles|dónde|puedes|puede|podrías|podría|"
    r"como|o que|quem|quando|quanto|quantos|quantas|qual|quais|onde|por que|por qué|pode|poderia|podes|podias)\b",
    re.IGNORECASE,
)
_WISH = re.compile(
    r"(?:(?:i|we)(?:['’]m| am| are|['’]re)? (?:just |now |really )?"
    r"(?:want|need|wish|wonder|wondering|require|seek|seeking|curious|hoping|hope|looking|interested|"
    r"searching|trying|asking|would like|would love|would appreciate|could use|not sure|"
    r"(?:do not|don['’]t) (?:know|understand)|have (?:a|some) questions?)|"
    r"(?:i|we)['’]d (?:like|love|appreciate)|my (?:question|request|task)|your (?:task|job|goal|assignment)|"
    r"help me|let['’]?s|it would be|"
    r"ich (?:möchte|will|brauche|suche|würde gern|hätte gern|wüsste gern|frage mich)|mich interessiert|"
    r"wir (?:möchten|wollen|brauchen|suchen)|je (?:veux|voudrais|souhaite|souhaiterais|cherche|me demande)|"
    r"j['’](?:aimerais|ai besoin)|nous (?:voulons|voudrions|cherchons)|merci de|quiero|quisiera|querría|me gustaría|"
    r"necesito|busco|me pregunto|quero|queria|gostaria|preciso|procuro|"
    r"estou (?:procurando|à procura)|estoy buscando)\b",
    re.IGNORECASE,
)
_GIVEN = re.compile(r"you (?:are|were|will be|have been) (?:given|asked|required|provided|tasked|a|an|the)\b", re.I)
_CUES = re.compile(
    "[?？؟]|请|請|如何|怎么|怎样|怎麼|什么|什麼|为什么|哪|谁|多少|能否|是否|吗|呢|我想|我要|我需要|我希望|帮我|告诉我|给我|"
    "写|列出|列举|解释|说明|描述|介绍|推荐|比较|总结|翻译|创建|设计|分类|举例|教我|ください|下さい|ほしい|欲しい|教えて|お願い|"
    "なぜ|どう|どの|どれ|どこ|何|いつ|誰|いくつ|いくら|ですか|ますか|でしょうか|知りたい|書いて|挙げて|まとめて|述べよ|"
    "説明して|翻訳して|बताइ|बताए|बताएँ|बताओ|समझा|लिखि|लिखें|लिखो|दीजि|दें|कीजि|करें|करो|कृपया|क्या|कैसे|क्यों|कौन|कब|"
    "कहाँ|कहां|कितन|किस|चाहता|चाहती|चाहिए|मदद"
)
"""Question marks, and words of languages whose orders do not begin with a verb."""

_ANSWER = re.compile(
    r"(?:sure|certainly|absolutely|of course|yes|no|nope|okay|ok|great|sorry|thank you|thanks|unfortunately|however|"
    r"well)\b(?! (?:thing|matter))|answer:|"
    r"(?:here|below|these|those|following|the following) (?:is|are|was|were)\b|here['’]s\b|"
    r"(?:i|we) (?:can|could|will|shall|cannot|do not have|don['’]t have|recommend|suggest|think|believe|hope)\b|"
    r"(?:i|we)['’](?:ll|ve|d be)\b|i can['’]t\b|"
    r"i(?: am|['’]m) (?:sorry|happy|glad|pleased|here|able|unable|not able|not capable|going to|designed|trained|ready|"
    r"an? (?:ai|assistant|language)|delighted)\b|i would be\b|as an? (?:ai|artificial|language model)\b|"
    r"to \w+[^?]{0,80}, (?:you|first|we|one|start|begin)\b|you (?:can|could|need|should|must|may|will need|might)\b|"
    r"(?:first|firstly|second|secondly|step 1|finally|in conclusion|overall)[,:]|the answer\b|"
    r"(?:hier (?:ist|sind)|klar|natürlich|gerne|zuerst|du (?:kannst|solltest|musst|brauchst)|"
    r"man (?:kann|sollte|muss)|sie (?:können|sollten|müssen)|es gibt|um [^?,]{2,80} zu \w+, |"
    r"voici|voilà|bien sûr|d['’]abord|il (?:faut|existe|y a)|vous (?:pouvez|devez|devriez)|"
    r"tu (?:peux|dois|devrais)|pour \w+[^?]{0,80}, (?:il faut|vous|tu|on|commencez)|"
    r"aquí (?:está|están|tienes|tiene)|claro|por supuesto|primero|debes|hay que|para \w+[^?]{0,80}, "
    r"(?:primero|hay que|debes|necesitas|primeiro|você|é preciso)|aqui (?:está|estão|vai|vão)|com certeza|primeiro|"
    r"você (?:deve|precisa|pode)|existem|é preciso)\b|"
    "以下是|当然|好的|首先|这是|您可以|你可以|以下は|こちらが|もちろん|はい|まず|यहाँ|यहां|ज़रूर|जरूर|बिल्कुल|सबसे पहले|"
    "आप .{0,20}सकते",
    re.IGNORECASE,
)
_REPORT = re.compile(
    r"(?:this|it) (?:is|was) (?!for\b|about\b|my\b|our\b|important\b|urgent\b)|(?:this|it) (?:can|has|will|depends)\b|"
    r"there (?:are|is|were|was)\b|the (?:best way|most|first step)\b|one (?:of|way|possible)\b|"
    r"some (?:of|popular|common|possible)\b",
    re.IGNORECASE,
)

_ENGLISH = frozenset(
    "the a an of to is are what how do does i you in for and can my that this with me from on it why who which".split()  # noqa: SIM905
)


def is_english(text: str) -> bool:
    """Whether a text is in English, as far as its letters and most frequent words tell.

    >>> is_english("How do I brew tea?"), is_english("Come si prepara il tè?")
    (True, False)
    """
    words = [word.lower() for word in _WORD.findall(text)]
    foreign = sum(not letter.isascii() for letter in text if letter.isalpha())
    return bool(_ENGLISH & set(words)) and 20 * foreign <= len(text)


def sentences_of(text: str) -> list[str]:
    """Split at the ends of sentences and of lines.

    >>> sentences_of("I bake. How long does bread take?")
    ['I bake.', 'How long does bread take?']
    """
    return [part.strip() for part in _BREAK.split(text) if any(letter.isalnum() for letter in part)]


def first_words(sentence: str, most: int = 4) -> list[str]:
    """The words that a sentence begins with, in lower case, without politeness.

    >>> first_words("Please, explain it.")
    ['explain', 'it']
    """
    words = [word.lower() for word in _WORD.findall(sentence[:200])]
    while words and words[0] in _POLITE:
        words = words[1:]
    return words[:most]


def asks(sentence: str, orders: Set[str] = frozenset()) -> bool:
    """Whether a sentence is a question, an order or a wish.

    Args:
        sentence: one of :func:`sentences_of`.
        orders: verbs that begin an order besides the known ones, e.g. that of the instruction.

    >>> [asks(text) for text in ("How to brew tea", "In short, explain tea.", "I need tea.", "Tea is a drink.")]
    [True, True, True, False]
    """
    if _CUES.search(sentence):
        return True
    bare = sentence.lstrip(_LEAD)
    if _QUESTION.match(bare) or _WISH.match(bare) or _GIVEN.match(bare):
        return True
    known = _ORDER_WORDS | orders
    clauses = [bare, *re.split(r"[,;:] ", bare)[1:3]]
    firsts = [words[0] for clause in clauses if (words := first_words(clause, 1))]
    return any(word in known or word.partition("-")[0] in known for word in firsts)


def reports(sentence: str) -> bool:
    """Whether a sentence states something, as answers do and as what leads to a question may.

    >>> reports("There are many ways to do it."), reports("This is for my school.")
    (True, False)
    """
    return bool(_REPORT.match(sentence.lstrip(_LEAD))) and not _CUES.search(sentence)


def opens_as_answer(sentence: str) -> bool:
    """Whether a sentence begins as answers do.

    >>> opens_as_answer("Here are three tips:"), opens_as_answer("Which tips have you?")
    (True, False)
    """
    bare = sentence.lstrip(_LEAD)
    return bool(_ANSWER.match(bare)) and not bare.rstrip("\"'”’) ").endswith(("?", "？"))
