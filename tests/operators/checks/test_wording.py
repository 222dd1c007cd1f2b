"""Checks of a rewording's wording, by hand-made examples in eight languages."""

import json

import pytest

from benchmarks.guards import measure
from benchmarks.held_out import RESULTS
from darwin_align import Request
from darwin_align.operators.checks.wording import REWORDING_CHECKS, repeats, rewords, words_it_as_request
from darwin_align.operators.mutator import Check
from darwin_align.operators.prompts import MANY, parse_list


def refusal(original: str, mutation: str) -> str | None:
    request = Request.of(original)
    return next((reason for check in REWORDING_CHECKS if (reason := check(request, mutation))), None)


GOOD = {
    "How do I brew green tea?": (
        "Explain how to brew green tea.",
        "What is the best way to brew green tea?",
        "I want to brew green tea. Which steps matter, and which mistakes should I avoid?",
        "I'd like to learn how green tea is brewed.",
        "In simple words, tell me how to brew green tea. Answer in a few words. Explain why it works.",
        "Could you walk me through brewing green tea",
        "You are an expert on tea. Describe how to brew green tea.",
        "how should someone brew green tea",
        "There is green tea in my kitchen. How do I brew it?",
        "Explain how to brew green tea. This is for my mother.",
        "Explain in 5 short steps how to brew green tea.",
    ),
    "Write a poem about autumn in Paris.": (
        "Please compose a poem about Paris in autumn.",
        "I need a poem on autumn in Paris.",
        "As a poet, write about autumn in Paris, in verse.",
        "Can you write me a poem in which it is autumn in Paris?",
    ),
    "Classify the animal as mammal, bird or fish.\n\nEmperor penguin": (
        "Is the emperor penguin a mammal, a bird or a fish?",
        "Please decide whether this animal is a mammal, a bird or a fish.\n\nEmperor penguin",
    ),
    "Which is the largest?\nA. Mars\nB. Venus\nC. The Earth": (
        "Tell me which of Mars, Venus and the Earth is largest.",
    ),
    "Name three rivers of France.": ("List 3 French rivers in France.", "What are three rivers of France?"),
    "Is online gambling legal in India?": ("Tell me whether online gambling is legal in India.",),
    "As a sports reporter, describe the winning play.": (
        "Describe the winning play as if you were a sports reporter.",
        "I'm now asking for a sports reporter's description of the winning play.",
    ),
    "Is there any way to salvage runny mayonnaise?": ("How can I salvage my runny mayonnaise?",),
    "Digital transformation project plan example": (
        "Could you give me an example of a project plan for a digital transformation?",
        "An example of a plan of a digital transformation project",
    ),
    "What are the benefits of AI?": ("Explain how people benefit from Artificial Intelligence, also called AI.",),
    "Translate into French: Where is the station?": ('How do you say "Where is the station?" in French?',),
    "Wie brühe ich grünen Tee?": (
        "Erkläre mir Schritt für Schritt, wie ich grünen Tee brühe.",
        "Bitte beschreiben Sie, wie man grünen Tee richtig brüht.",
        "Ich möchte grünen Tee brühen. Worauf muss ich achten?",
        "Mich interessiert, wie grüner Tee gebrüht wird.",
    ),
    "Schreibe ein Gedicht über den Herbst.": (
        "Verfasse bitte ein Gedicht, das vom Herbst handelt.",
        "Kannst du mir ein Gedicht über den Herbst schreiben?",
        "Ich hätte gern ein Gedicht über den Herbst.",
    ),
    "Übersetze ins Englische: Wo ist der Bahnhof?": ("Wie heißt „Wo ist der Bahnhof?“ auf Englisch?",),
    "Comment préparer du thé vert ?": (
        "Explique-moi comment préparer du thé vert.",
        "Expliquez, étape par étape, la préparation du thé vert.",
        "J'aimerais savoir comment on prépare le thé vert.",
        "Pourrais-tu décrire la préparation du thé vert ?",
    ),
    "Écris un poème sur l'automne.": (
        "Je voudrais un poème sur l'automne.",
        "Rédige un poème dont le sujet est l'automne.",
        "Peux-tu composer un poème sur l'automne ?",
    ),
    "Donne trois idées de repas.": ("Propose-moi 3 idées de repas.",),
    "¿Cómo preparo té verde?": (
        "Explícame cómo preparar té verde.",
        "Por favor, describe paso a paso la preparación del té verde.",
        "Quiero preparar té verde. ¿Qué debo tener en cuenta?",
        "Me gustaría saber cómo se prepara el té verde.",
    ),
    "Escribe un poema sobre el otoño.": (
        "¿Puedes escribir un poema sobre el otoño?",
        "Redacta un poema que hable del otoño.",
    ),
    "Como faço chá verde?": (
        "Explique-me como fazer chá verde.",
        "Descreva passo a passo como se faz chá verde.",
        "Gostaria de saber como se faz chá verde.",
        "Você poderia explicar como fazer chá verde?",
    ),
    "Escreva um poema sobre o outono.": ("Quero um poema sobre o outono.", "Pode escrever um poema sobre o outono?"),
    "如何泡绿茶？": (
        "请解释如何泡绿茶。",
        "我想泡绿茶，请一步一步告诉我怎么做。",
        "泡绿茶的正确方法是什么？",
        "介绍一下绿茶的泡法。",
    ),
    "写一首关于秋天的诗。": ("请创作一首以秋天为主题的诗。", "能否为我写一首关于秋天的诗？"),
    "请列出三条法国的河流。": ("法国有哪三条河流？请列出来。",),
    "緑茶はどうやって淹れますか？": (
        "緑茶の淹れ方を順を追って説明してください。",
        "緑茶を上手に淹れる方法を教えて。",
        "緑茶の淹れ方が知りたいです。",
        "おいしい緑茶を淹れるには何に気をつければよいでしょうか。",
    ),
    "秋についての詩を書いてください。": ("秋をテーマに詩を一つ書いて。", "秋の詩をお願いします。"),
    "मैं हरी चाय कैसे बनाऊँ?": (
        "कृपया समझाइए कि हरी चाय कैसे बनाई जाती है।",
        "हरी चाय बनाने का तरीका चरण दर चरण बताइए।",
        "मैं हरी चाय बनाना चाहता हूँ। किन बातों का ध्यान रखूँ?",
    ),
    "पतझड़ पर एक कविता लिखिए।": ("कृपया पतझड़ के बारे में एक कविता लिखें।", "क्या आप पतझड़ पर एक कविता लिख सकते हैं?"),
    "Come si prepara il tè verde?": ("Spiega come si prepara il tè verde.",),
    "Как заварить зелёный чай?": ("Объясни, как заварить зелёный чай.",),
    "You can easily make your holidays greener by following these steps:": ("List steps for greener holidays.",),
}
"""Requests and what is a good rewording of each."""
ANSWERS = {
    "How do I brew green tea?": (
        "You need a kettle. Boil the water.",
        "Sure! Here is how you brew it.",
        "Here are three ways to brew green tea:",
        "I can explain green tea to you like a five-year-old child.",
        "I'm sorry, but green tea is unknown to me.",
        "To brew green tea, you heat water first.",
        "There are many ways to brew green tea.",
        "What a great question. The answer is to brew green tea gently.",
        "How do I brew green tea? You can brew it with hot water.",
        "How do I brew green tea? It is brewed with hot water.",
        "First, boil water for the green tea.",
        "Green tea is brewed at 80 degrees.",
    ),
    "Wie brühe ich grünen Tee?": (
        "Hier sind drei Tipps für grünen Tee:",
        "Du solltest grünen Tee mit heißem Wasser brühen.",
        "Um grünen Tee zu brühen, brauchst du Wasser.",
        "Grüner Tee wird mit Wasser gebrüht.",
    ),
    "Comment préparer du thé vert ?": (
        "Voici comment préparer du thé vert.",
        "Il faut de l'eau chaude.",
        "Le thé vert aime l'eau.",
    ),
    "¿Cómo preparo té verde?": (
        "Aquí tienes una receta de té verde.",
        "Primero, hay que hervir agua.",
        "El té verde es sano.",
    ),
    "Como faço chá verde?": ("Aqui está uma receita de chá verde.", "Você deve ferver a água.", "O chá verde faz bem."),
    "如何泡绿茶？": ("首先，把水烧开。", "以下是泡绿茶的步骤：", "绿茶用热水冲泡。"),
    "緑茶はどうやって淹れますか？": ("まず、お湯を沸かします。", "以下は緑茶の淹れ方です。", "緑茶はお湯で淹れます。"),
    "मैं हरी चाय कैसे बनाऊँ?": ("सबसे पहले पानी उबालिए।", "यहाँ हरी चाय की विधि है।", "हरी चाय सेहत के लिए अच्छी है।"),
}


@pytest.mark.parametrize(("original", "mutation"), [(one, text) for one, texts in GOOD.items() for text in texts])
def test_good_rewordings_pass(original: str, mutation: str) -> None:
    assert refusal(original, mutation) is None


@pytest.mark.parametrize(("original", "mutation"), [(one, text) for one, texts in ANSWERS.items() for text in texts])
def test_answers_are_refused(original: str, mutation: str) -> None:
    reason = words_it_as_request(Request.of(original), mutation)
    assert reason is not None
    assert reason.startswith("it answers instead of rewording: ")


@pytest.mark.parametrize(
    ("original", "mutation", "reason"),
    [
        ("How do I brew green tea?", "how do i brew  green tea", "a copy of the instruction"),
        ("How do I brew green tea?", "Please, how do I brew green tea?", "a copy of the instruction"),
        ("How do I brew green tea?", "Rewrite: How should I brew green tea?", "begins with a label"),
        ("How do I brew green tea?", "Rewritten request: How should I brew green tea?", "begins with a label"),
        ("How do I brew green tea?", "Mentor: How should I brew green tea?", "begins with a label"),
        ("How do I brew green tea?", "Please answer this question about green tea brewing.", "talks about rewording"),
        ("How do I brew green tea?", "How do I brew green tea for [name]?", "a place to fill in"),
        ("What is this?", "Can you help me in learning to swim as an adult?", "the example in the prompt"),
        ("How do I brew green tea?", "How many times can you drink one cup of green tea?", "a quantity"),
        ("How are carbon fibers used in buildings?", "Who brought carbon fibers into buildings?", "asks who"),
        ("How are carbon fibers used in buildings?", "What is the origin of carbon fibers in buildings?", "origin"),
        ("Make a list of game snacks.", "How can I make a list of game snacks?", "asks how to make"),
        ("Can you write code?", "What is the code?", "about something that the instruction orders to write"),
        (
            "Is online gambling legal in India?",
            "What online gambling is legal in India?",
            "and the instruction whether",
        ),
        ("Can you write code?", "Can you write code in Python?", "it brings a name that the instruction lacks: python"),
        (
            "Can you write code?",
            "Can you write code that removes broken files, prints logs, sorts mail?",
            "something else",
        ),
        (
            "Can one cook an egg in sunlight?",
            "How to cook an egg in sunlight?",
            "how, and the instruction whether",
        ),
        ("What is a scary costume?", "Tell me how to sew a scary costume.", "it asks how, and the instruction what"),
        (
            "How do I detail a car?",
            "Give me a detailed description of a car.",
            "asks how, and it does not",
        ),
        (
            "What are names of actors?",
            "Please explain the names of actors.",
            "to explain what the",
        ),
        ("As a chef, describe a good soup.", "Can you describe a good soup?", "it loses the role: chef"),
        ("Plot f(b)-f(a)/(b-a) in R.", "Make a plot of f(x)-f(a)/b in R.", "it changes a formula: f(b)-f(a)/(b-a)"),
        (
            "Give a scenario of war.",
            "Give me three scenarios of war.",
            "a number that the instruction lacks: 3",
        ),
        ("Tea time plan", "The tea time plan is a plan.", "states something, and asks for nothing"),
        ("What is a tea ceremony?", "What's a tea ceremony?", "a copy of the instruction"),
        ("How do I brew green tea?", "Explain how to brew green tea, and", "it ends within a sentence"),
        ("How do I brew green tea?", "Explain how to brew green tea in the", "it ends within a sentence"),
        ("How do I brew green tea?", "I want to brew green tea. Explain how I can", "it ends within a sentence"),
        (
            "Is it spam?\n\nDoctors hate her!",
            "Tell me whether it is spam.",
            "it loses material: Doctors hate her!",
        ),
        ("Which is wet?\nA. A kilogram of feathers\nB. Air", "Which of air and water is wet?", "kilogram of feathers"),
        ("Find words that match.\n\nH_AR_", "Find words that match H_AR_A_B.", "it loses material: H_AR_"),
        ("Name ten rivers.", "Name a few rivers.", "it loses a number: 10"),
        ("Is gambling legal in Texas or Ohio?", "Is gambling legal?", "it loses names: texas, ohio"),
        ('Summarize "The Black Swan".', "Summarize a book about risk.", "it loses material: The Black Swan"),
    ],
)
def test_other_replies_are_refused_for_what_they_are(original: str, mutation: str, reason: str) -> None:
    found = refusal(original, mutation)
    assert found is not None
    assert reason in found


@pytest.mark.parametrize("check", REWORDING_CHECKS)
def test_what_the_instruction_has_itself_is_no_reason(check: Check) -> None:
    """An instruction that looks like an answer, an echo or a cut text may be reworded like that."""
    for original, mutation in {
        "You should find a [color] for a wall, and": "You should look for a [color] of the wall, and",
        "Rewrite this sentence: They was here.": 'Please correct "They was here." and rewrite it.',
        "How do I swim?": "Explain how to swim.",
        "Answer yes or no. Is tea green?": "Say whether tea is green. Yes or no?",
    }.items():
        assert check(Request.of(original), mutation) is None


def test_the_example_in_the_prompt_is_known() -> None:
    example = MANY.template.partition("</request>")[2].partition("{context}")[0]
    assert all(map(rewords, [Request.of("What is this?")] * 2, parse_list(example)))


@pytest.mark.parametrize(
    ("text", "earlier", "same"),
    [
        ("Explain tea!", "please explain   Tea", True),
        ("请解释绿茶。", "解释绿茶", True),
        ("Explain tea.", "Explain green tea.", False),
    ],
)
def test_repetitions(text: str, earlier: str, same: bool) -> None:
    assert repeats(text, ["Something else.", earlier]) == same
    assert not repeats(text, [])


def test_the_figures_on_real_replies_are_those_that_are_reported() -> None:
    reported = json.loads((RESULTS / "guards.json").read_text("utf-8"))["rows"]
    assert measure() == reported
    kept = reported["kept"]
    before, now = kept["former check and LexicalIntent"], kept["checks and LexicalIntent"]
    assert now["precision"] > before["precision"] + 0.2
    assert now["recall"] > before["recall"] - 0.05
