"""The reward model scores exactly what a direct transformers call scores, whoever shares the batch."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from tokenizers import processors
from transformers import BertConfig, BertForSequenceClassification, DebertaV2Config, DebertaV2ForSequenceClassification

from darwin_align.backends.local import RECIPES, LocalScorer, RewardModel
from darwin_align.backends.recipes import recipe_for
from darwin_align.core.errors import ConfigError, ContextLengthError, ModelLoadError, RequestError
from darwin_align.core.types import Message, Population, Request, Response

REQUEST = Request.of("How do I brew green tea?")
TEXTS = (
    "Heat the water.",
    "",
    "把水烧到八十度，然后等两分钟。🍵",
    "Heat the water, but do not let it boil. " * 9,
    "Heat the water.",
)
RESPONSES = [Response(text=text) for text in TEXTS]
NAMES = ("llama", "qwen3", "gpt2")


@pytest.fixture(params=NAMES)
def reward(request, folders):
    return RewardModel.from_pretrained(folders[f"{request.param}-rm"], device="cpu", batch_size=3)


def direct(reward: RewardModel, ids: list[int]) -> float:
    """What transformers says of these ids, alone and therefore without any padding."""
    with torch.inference_mode():
        return float(reward._loaded.model(input_ids=torch.tensor([ids])).logits[0, 0])


@pytest.mark.parametrize("turn", ["closed", "open"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_transformers(folders, name, turn):
    size = {"closed": 4, "open": 5}[turn]  # an engine of its own, with no rows of other tests
    reward = RewardModel.from_pretrained(folders[f"{name}-rm"], device="cpu", turn=turn, batch_size=size)
    rewards, tokens = reward.score(REQUEST, RESPONSES)
    inputs = reward._template.answer_ids(REQUEST, RESPONSES, turn)
    assert rewards == pytest.approx([direct(reward, ids) for ids in inputs], abs=1e-4)
    assert rewards[0] == rewards[-1]
    assert len(set(rewards)) == 4
    assert 4 <= tokens < sum(map(len, inputs[:-1])), "equal answers and common beginnings are read once"
    again, unread = reward.score(REQUEST, RESPONSES)
    assert again == pytest.approx(rewards, abs=1e-5)
    assert unread == 4, "of what was read before, the last token is read again: from it comes the reward"


@pytest.mark.parametrize("name", NAMES)
def test_token_ids_are_scored_as_they_are(folders, name):
    reward = RewardModel.from_pretrained(folders[f"{name}-rm"], device="cpu")
    rows = [reward.encode("Heat the water."), [5, 4, 3], reward.encode("把水烧到八十度。")]
    rewards, read = reward.submit_ids(rows, lambda *found: found).result()
    assert rewards == pytest.approx([direct(reward, row) for row in rows], abs=1e-4)
    assert read == sum(map(len, rows))
    assert len(reward.encode("Heat", special_tokens=True)) >= len(reward.encode("Heat"))
    with pytest.raises(RequestError, match="no tokens"):
        reward.submit_ids([[]], tuple)
    with pytest.raises(RequestError, match="outside of the model's 0 to"):
        reward.submit_ids([[10**6]], tuple)
    with pytest.raises(ContextLengthError):
        reward.submit_ids([[1] * 10**5], tuple)


def test_scores_by_the_cards_own_call(folders, tokenizers):
    reward = RewardModel.from_pretrained(folders["qwen3-rm"], device="cpu")
    for response in RESPONSES:
        chat = [{"role": "user", "content": REQUEST.instruction}, {"role": "assistant", "content": response.text}]
        inputs = tokenizers["qwen3"].apply_chat_template(chat, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            expected = float(reward._loaded.model(**inputs).logits[0, 0])
        assert reward.score(REQUEST, [response])[0] == pytest.approx([expected], abs=1e-4)


@pytest.mark.parametrize("engine", ["over slots", "without slots"])
def test_a_turn_that_ends_with_the_pad_token_is_rewarded_before_it(folders, tokenizers, templates, engine, monkeypatch):
    # As of Phi-3.5 and DeepSeek. Reward models of transformers are trained with this pooling.
    source = templates.llama3.replace("<|eot_id|>", "{{ eos_token }}")
    reward = RewardModel.from_pretrained(folders["llama-rm"], device="cpu", chat_template=source, batch_size=6)
    if engine == "without slots":
        submit = reward._submit_to_engine
        monkeypatch.setattr(reward, "_submit_to_engine", lambda *of, **how: submit(*of, **{**how, "over_slots": False}))
    model, pad = reward._loaded.model, reward._loaded.model.config.pad_token_id
    inputs = reward._template.answer_ids(REQUEST, RESPONSES, "closed")
    assert all(ids[-1] == pad for ids in inputs)
    rewards = reward.score(REQUEST, RESPONSES)[0]
    assert rewards == pytest.approx([direct(reward, ids) for ids in inputs], abs=1e-4)
    width = max(map(len, inputs))
    batch = torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in inputs])
    with torch.inference_mode():
        together = model(input_ids=batch, attention_mask=torch.arange(width) < torch.tensor([[len(i)] for i in inputs]))
    assert rewards == pytest.approx(together.logits[:, 0].tolist(), abs=1e-4)
    assert reward.submit_ids([[5, pad, pad], [5]], lambda found, _: found).result() == pytest.approx(
        [direct(reward, [5])] * 2, abs=1e-4
    )


def test_company_and_order_do_not_matter(reward):
    together = reward.score(REQUEST, RESPONSES)[0]
    alone = [reward.score(REQUEST, [response])[0][0] for response in RESPONSES]
    assert together == pytest.approx(alone, abs=1e-4)
    assert reward.score(REQUEST, RESPONSES[::-1])[0] == pytest.approx(together[::-1], abs=1e-4)
    assert reward.score(REQUEST, []) == ([], 0)


def test_another_tokenizers_ids_go_by_text(folders, tokenizers):
    reward = RewardModel.from_pretrained(folders["gpt2-rm"], device="cpu")
    foreign = [
        Response(text=text, tokens=tuple(tokenizers["llama"].encode(text, add_special_tokens=False))) for text in TEXTS
    ]
    assert reward.score(REQUEST, foreign)[0] == pytest.approx(reward.score(REQUEST, RESPONSES)[0], abs=1e-4)


def test_the_same_tokenizers_ids_are_kept(folders, tokenizers):
    reward = RewardModel.from_pretrained(folders["llama-rm"], device="cpu")
    byte_by_byte = tuple(t for c in "tea" for t in tokenizers["llama"].encode(c, add_special_tokens=False))
    usual = tuple(tokenizers["llama"].encode("tea", add_special_tokens=False))
    assert byte_by_byte != usual
    scores = reward.score(REQUEST, [Response(text="tea", tokens=tokens) for tokens in (byte_by_byte, usual, ())])[0]
    assert scores[0] != pytest.approx(scores[1])
    assert scores[1] == scores[2]


def test_a_long_conversation(reward):
    turns = [
        Message(role=role, content=f"第{i}句：绿茶很好喝 🍵👩‍🔬 and so is déjà vu. " * 2)
        for i in range(20)
        for role in ("user", "assistant")
    ]
    request = Request(conversation=(*turns[1:], Message(role="user", content="再来一杯？")))
    rewards, tokens = reward.score(request, RESPONSES[:2])
    assert tokens > 3000, "the conversation is read once for both"
    inputs = reward._template.answer_ids(request, RESPONSES[:2], "closed")
    assert rewards == pytest.approx([direct(reward, ids) for ids in inputs], abs=1e-4)


def test_too_long_for_the_context(folders, tokenizers):
    reward = RewardModel.from_pretrained(folders["llama-rm"], device="cpu")
    model = copy.deepcopy(reward._loaded.model)
    model.config.max_position_embeddings = 60
    short = RewardModel(model, tokenizers["llama"])
    with pytest.raises(ContextLengthError, match=r"reward model's context is 60: lower max_new_tokens"):
        short.score(REQUEST, RESPONSES)


# -- pairs


def encoder(kind, config, size: int, **more):
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return kind(
        config(vocab_size=size, num_labels=1, initializer_range=0.3, max_position_embeddings=512, **shape, **more)
    )


@pytest.mark.parametrize(
    ("kind", "config", "more"),
    [
        (BertForSequenceClassification, BertConfig, {}),
        (
            DebertaV2ForSequenceClassification,
            DebertaV2Config,
            {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
        ),
    ],
)
def test_pairs_are_scored_as_by_transformers(new_tokenizer, kind, config, more):
    specials = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    tokenizer = new_tokenizer(None, specials)
    reward = RewardModel(encoder(kind, config, len(tokenizer), **more), tokenizer, recipe="pair", batch_size=3)
    rewards, tokens = reward.score(REQUEST, RESPONSES)
    expected, read = [], 0
    for text in TEXTS:
        inputs = tokenizer(REQUEST.instruction, text, return_tensors="pt")
        with torch.inference_mode():
            expected.append(float(reward._loaded.model(**inputs).logits[0, 0]))
        read += inputs["input_ids"].shape[1]
    assert rewards == pytest.approx(expected, abs=1e-4)
    assert 0 < tokens < read


def test_a_pair_is_always_closed(folders, tokenizers):
    with pytest.raises(ConfigError, match="'pair' recipe always closes the turn"):
        RewardModel.from_pretrained(folders["llama-rm"], recipe="pair", turn="open")


# -- families


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("sfairXC/FsfairX-LLaMA3-RM-v0.1", "rlhflow"),
        ("NCSOFT/Llama-3-OffsetBias-RM-8B", "rlhflow"),
        ("Skywork/Skywork-Reward-V2-Llama-3.1-8B", "skywork"),
        ("/models/Skywork-Reward-Gemma-2-27B-v0.2", "skywork"),
        ("RLHFlow/ArmoRM-Llama3-8B-v0.1", "armorm"),
        ("internlm/internlm2-7b-reward", "internlm2"),
        ("internlm/internlm2-1_8b-reward", "internlm2"),
        ("OpenAssistant/reward-model-deberta-v3-large-v2", "pair"),
        ("my/own-model", "generic"),
    ],
)
def test_families_are_recognised(path, family):
    assert recipe_for(path) is RECIPES[family]


def test_every_recipe_has_a_source():
    assert all(recipe.source.startswith("https://") and recipe.about for recipe in RECIPES.values())


@pytest.mark.parametrize("path", ["RLHFlow/ArmoRM-Llama3-8B-v0.1", "internlm/internlm2-7b-reward"])
def test_families_with_code_of_their_own_want_trust(path):
    with pytest.raises(ModelLoadError, match=r"run code from their own repository .*trust_remote_code=True"):
        LocalScorer.from_pretrained(path)


@pytest.mark.parametrize("recipe", ["rlhflow", "skywork"])
def test_bos_recipes_read_one_bos(folders, recipe, tokenizers):
    reward = RewardModel.from_pretrained(folders["llama-rm"], device="cpu", recipe=recipe)
    tokenizer = tokenizers["llama"]
    chat = [{"role": "user", "content": REQUEST.instruction}, {"role": "assistant", "content": TEXTS[0]}]
    text = tokenizer.apply_chat_template(chat, tokenize=False).replace(tokenizer.bos_token, "")
    ids = tokenizer(text)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert reward.score(REQUEST, RESPONSES[:1])[0] == pytest.approx([direct(reward, ids)], abs=1e-4)
    assert [list(one.ids) for one in reward._inputs(REQUEST, RESPONSES[:1])] == [ids]


@pytest.mark.parametrize("recipe", ["rlhflow", "skywork", "generic"])
def test_rewards_are_the_same_by_text_and_by_ids_where_the_tokenizer_ends_texts(folders, recipe, tokenizers):
    tokenizer = copy.deepcopy(tokenizers["llama"])
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, tokenizer.bos_token_id), (eos, tokenizer.eos_token_id)]
    )
    model = RewardModel.from_pretrained(folders["llama-rm"], device="cpu")._loaded.model
    reward = RewardModel(model, tokenizer, recipe=recipe)
    by_text = [Response(text=text) for text in ("Heat the water.", "No.")]
    by_ids = [
        Response(text=one.text, tokens=tuple(tokenizer.encode(one.text, add_special_tokens=False))) for one in by_text
    ]
    assert reward.score(REQUEST, by_ids)[0] == pytest.approx(reward.score(REQUEST, by_text)[0], abs=1e-5)
    for one in reward._inputs(REQUEST, [*by_text, *by_ids]):
        assert one.ids.count(tokenizer.bos_token_id) == 1
        assert one.ids.count(tokenizer.eos_token_id) == (0 if recipe == "generic" else 1)


class _OwnHead(torch.nn.Module):
    """Stands in for a family's own code: a score in the output, and ``get_score``."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_labels=19, max_position_embeddings=512, pad_token_id=0)
        self.config.get_text_config = lambda: self.config
        self.device = torch.device("cpu")

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(score=(input_ids * attention_mask).sum(dim=1).float())

    def get_score(self, tokenizer, chat):
        return float(len(chat[-1]["content"]))


def test_models_with_their_own_score(tokenizers):
    armo = RewardModel(_OwnHead(), tokenizers["llama"], recipe="armorm")
    inputs = armo._template.answer_ids(REQUEST, RESPONSES, "closed")
    assert armo.score(REQUEST, RESPONSES)[0] == [sum(ids) for ids in inputs]
    intern = RewardModel(_OwnHead(), tokenizers["plain"], recipe="internlm2")
    assert intern.score(REQUEST, RESPONSES) == ([len(text) for text in TEXTS], 0)


# -- the scorer


def test_the_scorer_reports_what_it_read(folders):
    scorer = LocalScorer.from_pretrained(folders["llama-rm"], device="cpu", threads=1)
    report = scorer.score(REQUEST, RESPONSES)
    assert report.answer == pytest.approx(scorer.reward_model.score(REQUEST, RESPONSES)[0], abs=1e-5)
    assert report.usage.reward_tokens >= 4


def test_the_scorer_answers_a_population(folders):
    scorer = LocalScorer.from_pretrained(folders["qwen3-rm"], device="cpu")
    population = Population.start(REQUEST, mutations=2)
    beams = {i: beam.model_copy(update={"text": TEXTS[i]}) for i, beam in enumerate(population.beams)}
    answer = scorer.invoke(population.with_beams(beams))
    assert [beam.reward for beam in answer.beams] == pytest.approx(
        scorer.score(REQUEST, RESPONSES[:2]).answer, abs=1e-4
    )
    assert answer.usage.reward_calls == 2
    assert answer.usage.reward_tokens > 0


def test_copies_and_pickles_share_the_weights(folders):
    scorer = LocalScorer.from_pretrained(folders["gpt2-rm"], device="cpu", turn="open", batch_size=2)
    sent = pickle.dumps(scorer)
    assert len(sent) < 3000
    for other in (pickle.loads(sent), copy.deepcopy(scorer), scorer.model_copy(deep=True)):  # noqa: S301
        assert other.reward_model._loaded.model is scorer.reward_model._loaded.model
        assert other.reward_model._options == scorer.reward_model._options
        assert other.score(REQUEST, RESPONSES).answer == pytest.approx(
            scorer.score(REQUEST, RESPONSES).answer, abs=1e-5
        )


def test_a_reward_model_made_in_memory_reports_why_it_cannot_be_pickled(folders, tokenizers):
    loaded = RewardModel.from_pretrained(folders["llama-rm"], device="cpu")._loaded
    with pytest.raises(TypeError, match="save the model to a folder"):
        pickle.dumps(RewardModel(loaded.model, tokenizers["llama"]))


def test_repr(folders):
    reward = RewardModel.from_pretrained(folders["llama-rm"], device="cpu")
    assert repr(reward) == f"RewardModel({str(folders['llama-rm'])!r}, recipe='generic', turn='closed')"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "fsfair"}, "unknown reward recipe 'fsfair': known are armorm, generic"),
        ({"turn": "half"}, "turn='half' is unknown: use 'closed' or 'open'"),
        ({"batch_size": 0}, "batch_size=0 is impossible"),
    ],
)
def test_impossible_options(folders, options, message):
    with pytest.raises(ConfigError, match=message):
        RewardModel.from_pretrained(folders["llama-rm"], device="cpu", **options)


def test_a_reward_model_without_chat_template(folders, tokenizers):
    model = RewardModel.from_pretrained(folders["llama-rm"], device="cpu")._loaded.model
    with pytest.raises(ModelLoadError, match=r"the reward model .* has no chat template"):
        RewardModel(model, tokenizers["plain"])
