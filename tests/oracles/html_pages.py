"""Pages that the extraction of text is compared on: shared by the test and by make_extract_oracle.py."""


def pages() -> list[str]:
    sentence = "The quick brown fox, which is known to all, jumps over the lazy dog that lies in the sun. "
    chinese = "系统会自动检查网络设置，用户可以在这里选择语言，也可以关闭这个功能。"
    bodies = [
        f"<article class='post'><h1>H</h1><p>{sentence * 4}</p><ul><li>one<li>two</ul><pre>a = 1\nb</pre></article>",
        f"<div id='content'><p>{chinese * 5}</p><table><tr><th>A<td>B</table><div class='sidebar'>{sentence}</div>",
        f"<form><div class='cookie'>{sentence}</div><p>{sentence * 2}</p><label>x <input value=1></label></form>",
        f"<main><!-- c --><p>{sentence}</p><p>{sentence}</p><p>{sentence}</p><p>{sentence}</p></main>",
        "<p>short</p>",
        f"<div><select><option>{sentence}</select><textarea>{sentence * 3}</textarea><?pi x?></div>",
        f"<div class='comments'>{sentence * 9}</div><div class='teaser'>{sentence * 3}</div>",
    ]
    wrapped = [f"<!DOCTYPE html><html><head><title>t</title></head><body>{body}</body></html>" for body in bodies]
    return [*wrapped, *bodies, wrapped[0] * 2, "", "<html>", "no markup at all"]
